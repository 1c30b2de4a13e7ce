"""``training.json``: what a model was made of, kept in its own folder and shown on its card.

Each command that makes a model writes one, and copies into it that of the model it started from: the file of the last step tells the
whole way from the backbone. It holds no time, no user and no absolute path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from mice_st.hub_folder import read_json, sha256_of, write_json
from mice_st.released import BACKBONE_NAME, is_backbone

PROVENANCE_FILE = "training.json"
PACKAGES = ("mice-st", "sentence-transformers", "transformers", "torch")


def write_provenance(folder: Path, command: str, options: Mapping[str, Any], **made: Any) -> None:
    """Write ``training.json`` into a model folder.

    Args:
        folder: The model folder.
        command: Command of ``mice-st`` that made the model.
        options: Its flags; absolute paths are shortened, see ``shorten_paths``. What was left out is left out here.
        **made: What else there is to say: ``model`` (of ``describe_source``), ``data``, ``steps``.
    """
    given = {name: shorten_paths(value) for name, value in options.items() if value is not None}
    versions = {package: version(package) for package in PACKAGES}
    write_json(folder / PROVENANCE_FILE, {"command": command, "options": given, **made, "versions": versions})


def read_stages(folder: Path) -> list[dict[str, Any]]:
    """What ``training.json`` tells, one dictionary for each command, the first one first; empty where there is no such file.

    Raises:
        ValueError: If the file is not what ``write_provenance`` writes.
    """
    path = folder / PROVENANCE_FILE
    stages: list[dict[str, Any]] = []
    stage = read_json(path) if path.is_file() else None
    while stage is not None:
        if not isinstance(stage, dict) or not isinstance(stage.get("options"), dict) or "command" not in stage:
            raise ValueError(f"{path}: stage {len(stages) + 1} from the last is not a command with its options")
        stages.insert(0, stage)
        stage = (stage.get("model") or {}).get("made_by")
    return stages


def describe_source(name: str) -> dict[str, Any]:
    """Which model something started from.

    Args:
        name: Folder or Hub id.

    Returns:
        ``source``; for a folder ``weights`` (file -> SHA-256) and, where it has a ``training.json``, its content as ``made_by``; for a Hub
        id its ``commit``.
    """
    folder = Path(name)
    if not folder.is_dir():
        return {"source": name, "commit": Path(hf_hub_download(name, "config.json")).parent.name}
    weights = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    described = {"source": shorten_paths(name), "weights": weights}
    made_by = folder / PROVENANCE_FILE
    return described | ({"made_by": read_json(made_by)} if made_by.is_file() else {})


def shorten_paths(value: Any) -> Any:
    """Absolute paths without what they tell of the machine: below the working folder as they are from there, otherwise the last name; the backbone's is its own."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [shorten_paths(item) for item in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    if is_backbone(value):
        return BACKBONE_NAME
    path = Path(value)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
