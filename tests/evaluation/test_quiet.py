"""Experiments are quiet while they run, and only then."""

import logging

import pytest

from mice_st.evaluation.quiet import errors_only


def test_warnings_come_back_after_the_block_however_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mice_st.somewhere")
    with pytest.raises(ValueError, match="ends"), errors_only():
        logger.warning("hidden")
        logger.error("shown")
        raise ValueError("ends")
    logger.warning("shown again")
    assert [record.message for record in caplog.records] == ["shown", "shown again"]
