"""Experiments are quiet while they run, and only then."""

import logging

import pytest

from mice_st.evaluation.quiet import errors_only


def fail_quietly() -> None:
    """Log at two levels, then fail, all within the block."""
    with errors_only():
        logging.getLogger("mice_st.somewhere").warning("hidden")
        logging.getLogger("mice_st.somewhere").error("shown")
        raise ValueError("ends")


def test_warnings_come_back_after_the_block_however_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="ends"):
        fail_quietly()
    logging.getLogger("mice_st.somewhere").warning("shown again")
    assert [record.message for record in caplog.records] == ["shown", "shown again"]
