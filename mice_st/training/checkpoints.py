"""The run that a folder of checkpoints belongs to, and which of them are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mice_st.files import write_json
from mice_st.training.flat import with_defaults
from mice_st.training.recipe import TrainingRecipe

RUN_FILE = "recipe.json"
HISTORY_FILE = "history.json"

# Fields that a resumed run may change: none of them changes the weights.
FREE_FIELDS = (
    "output",
    "resume",
    "expected_processes",
    "cpu",
    "save_steps",
    "keep_checkpoints",
    "push_to",
    "report_to",
)


def describe_run(recipe: TrainingRecipe, data_fingerprint: str, processes: int) -> dict[str, Any]:
    """The description of a run; two runs must have it in common for one to go on where the other stopped.

    Args:
        recipe: The recipe.
        data_fingerprint: SHA-256 of the training rows.
        processes: Number of processes.

    Returns:
        A dictionary that JSON holds.
    """
    return {"recipe": recipe.flat(), "data_sha256": data_fingerprint, "processes": processes}


def find_checkpoint(folder: Path, run: dict[str, Any]) -> Path:
    """Find the last complete checkpoint of the same run.

    Args:
        folder: Folder of checkpoints.
        run: Description of the run that wants to go on.

    Returns:
        The checkpoint's folder.

    Raises:
        FileNotFoundError: If there is no complete checkpoint.
        ValueError: If the checkpoints were made by another recipe, data or number of processes; names the fields.
    """
    complete = [checkpoint for checkpoint in list_checkpoints(folder) if is_complete(checkpoint, run["processes"])]
    before = _read_run(folder)
    if before is not None:
        options = with_defaults(TrainingRecipe, before["recipe"])
        faults = [
            f"{name} was {options.get(name)!r} and is {value!r}"
            for name, value in run["recipe"].items()
            if name not in FREE_FIELDS and options.get(name) != value
        ]
        if before["processes"] != run["processes"]:
            faults.append(f"there were {before['processes']} processes and are {run['processes']}")
        if not faults and before["data_sha256"] != run["data_sha256"]:
            faults.append("the training rows have changed")
        if faults:
            raise ValueError(f"resume: the checkpoints in {folder} belong to another run: {'; '.join(faults)}")
    if before is None or not complete:
        raise FileNotFoundError(f"resume: there is no complete checkpoint in {folder}; start without resume")
    return complete[-1]


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, complete or not, in the order of their steps."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(steps, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def is_complete(checkpoint: Path, processes: int) -> bool:
    """Whether writing the checkpoint was finished.

    The trainer's state is written last by the first process; the others only write the state of their generators.
    """
    names = ["model.safetensors", "optimizer.pt", "scheduler.pt"]
    names += ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    if not all((checkpoint / name).is_file() for name in names):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_run(folder: Path, run: dict[str, Any]) -> None:
    """Write the description of a run beside its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, run)


def _read_run(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
