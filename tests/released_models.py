"""Which models a test of a whole folder is about: a tiny one, and each that is released, which takes longer."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = "tiny"
RELEASED = sorted(path.parent for path in (ROOT / "hub_cards").glob("*/config.json"))
# For ``parametrize("folder", MODELS, indirect=True)``, where a fixture ``folder`` makes a copy.
MODELS = [
    pytest.param(TINY, id=TINY),
    *(pytest.param(path, id=path.name, marks=pytest.mark.slow) for path in RELEASED),
]
