"""Makes ``tests.modeling.backbones`` importable, whatever folder pytest is started from; its folders, saved once."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def backbone_folders(tmp_path_factory: pytest.TempPathFactory, shake: Callable[..., None]) -> dict[str, Path]:
    """A cross-encoder of every type of backbone, with its tokenizer."""
    from tests.modeling.backbones import BACKBONES, save_cross_encoder

    root = tmp_path_factory.mktemp("backbones")
    return {name: save_cross_encoder(name, root / name, shake) for name in BACKBONES}
