"""Makes ``tests.modeling`` importable, whatever folder pytest is started from; backbones saved once; a small model."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mice_st.modeling.modeling_mice import MiceForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def backbone_folders(tmp_path_factory: pytest.TempPathFactory, shake: Callable[..., None]) -> dict[str, Path]:
    """A cross-encoder of every type of backbone, with its tokenizer."""
    from tests.modeling.backbones import BACKBONES, save_cross_encoder

    root = tmp_path_factory.mktemp("backbones")
    return {name: save_cross_encoder(name, root / name, shake) for name in BACKBONES}


@pytest.fixture
def build(shake: Callable[..., None]) -> Callable[..., MiceForSequenceClassification]:
    """Builds a small model, see ``small_model.build_model``."""
    from tests.modeling.small_model import build_model

    return partial(build_model, shake)
