"""Which models a test of a whole folder is about: a tiny one, and each that is released, which takes longer."""

import pytest

from mice_st.loading import HUB_CARDS

TINY = "tiny"
RELEASED = sorted(path.parent for path in HUB_CARDS.glob("*/config.json"))
# For ``parametrize("folder", MODELS, indirect=True)``, where a fixture ``folder`` makes a copy.
MODELS = [
    pytest.param(TINY, id=TINY),
    *(pytest.param(path, id=path.name, marks=pytest.mark.slow) for path in RELEASED),
]
