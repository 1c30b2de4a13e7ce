"""The models that this project has released, by name: ``mice-st rank`` and its like take ``mice-mini`` for a folder.

Their weights lie in the repository (``hub_cards/NAME``), not in the wheel: a name leads to the checkout that the package is
installed from, never to the network.
"""

from __future__ import annotations

import os
from pathlib import Path

RELEASED_MODELS = ("mice-mini", "mice-mini-narrow")
DEFAULT_MODEL = "mice-mini"

# Beside the package in a checkout (`pip install -e .`); where the package was installed from a wheel, there is no such folder.
HUB_CARDS = Path(__file__).resolve().parents[1] / "hub_cards"


def resolve_model(name: str) -> str:
    """The folder of a released model; any other folder or Hub id stays as it is.

    Args:
        name: Folder, Hub id, or name of a released model. A local folder of that name is meant before the released model.

    Returns:
        What loaders take: a folder, relative where it lies in the working folder, or the Hub id.

    Raises:
        FileNotFoundError: If a released model is named and its weights are not on this machine.
    """
    if name not in RELEASED_MODELS or Path(name).is_dir():
        return name
    folder = HUB_CARDS / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: the released weights lie in the repository's hub_cards/{name}, and this mice-st is not installed from a "
            "checkout that has them: name that folder by its path, or another model (--model FOLDER, or a Hub id)"
        )
    working_folder = Path.cwd()
    return os.path.relpath(folder) if folder.is_relative_to(working_folder) else str(folder)
