"""What is looked at between flags and work: names of models, devices, output that exists; and what an interrupted run has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mice_st.commands.parser import value_of
from mice_st.commands.registry import COMMANDS, load_reference
from mice_st.loading import check_model_name

MODEL_FLAGS = ("model", "teacher", "bi_encoder")
FIRST_STAGE = "bm25"  # stands among the models of an evaluation, and is none


def check_options(name: str, options: Any, overwrite: bool = False) -> None:
    """Refuse options that cannot work, before anything is loaded or written.

    Args:
        name: Of the command.
        options: Its options.
        overwrite: Whether output that exists may be overwritten.

    Raises:
        FileExistsError: If there is output that would be overwritten.
        FileNotFoundError: If a model's name is neither a folder, nor a Hub id, nor that of a released model.
        ValueError: If the device does not exist here.
    """
    for flag in MODEL_FLAGS:
        given = value_of(options, flag)
        for model in given if isinstance(given, list) else filter(None, [given]):
            if model != FIRST_STAGE:
                check_model_name(model.partition("@")[0] if name == "verify" else model)
    if device := value_of(options, "device"):
        check_device(device)
    reference = COMMANDS[name].overwrites
    if reference is not None and not overwrite and (existing := load_reference(reference)(options)):
        raise FileExistsError(f"output: {existing}; give --overwrite, or another output")


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or does not have.

    Raises:
        ValueError: With what torch says.
    """
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # an assertion where it was built without CUDA
        raise ValueError(f"device: {device} cannot be used here: {str(error).splitlines()[0]}") from error


def existing_folder(options: Any) -> str | None:
    """Name the output folder if there is anything in it.

    Raises:
        NotADirectoryError: If it is a file.
    """
    output = value_of(options, "output")
    if output is None or not Path(output).exists():
        return None
    if not Path(output).is_dir():
        raise NotADirectoryError(f"output: {output} is a file, and a folder is needed")
    return f"{output} holds files" if any(Path(output).iterdir()) else None


def existing_file(options: Any) -> str | None:
    """Name the output file if there is one."""
    return existing_files(value_of(options, "output"))


def existing_files(*paths: str | Path | None) -> str | None:
    """Name the first of several files that is there."""
    return next((f"{path} exists" for path in paths if path is not None and Path(path).exists()), None)


def describe_saved(name: str, options: Any) -> str | None:
    """Say what an interrupted command has saved and how to go on; None where it has nothing to say."""
    command = COMMANDS[name]
    if isinstance(options, list):  # a recipe file and the words behind it
        return load_reference(command.recipe_saved)(options[0], options[1:]) if command.recipe_saved else None
    return load_reference(command.saved)(options) if command.saved else None


def saved_parts(options: Any) -> str | None:
    """Count the parts of rows that lie beside the output until all are done."""
    parts = Path(f"{value_of(options, 'output')}.parts")
    done = len(list(parts.glob("*.jsonl")))
    return f"{done} finished parts lie in {parts}, the same command goes on from there" if done else None
