"""Recipe files: ``mice-st train RECIPE.toml`` runs what a file describes, step after step, and goes on where it stopped.

A file without ``[[steps]]`` holds the fields of one ``TrainingRecipe``. Otherwise each step names a command of ``mice-st`` (``convert``,
``train``, ``mine``, ``label``, ``merge`` or ``evaluate``; ``train`` where it names none) and gives its flags::

    output = "runs/example"
    data = "data"

    [[steps]]
    name = "start"
    command = "convert"
    model = "all-MiniLM-L6-v2"

    [[steps]]
    name = "distilled"
    model = "{start}"
    train_data = ["{data}/squad:train"]

What stands above the steps holds for each of them that has such a flag. ``{name}`` is the output of an earlier step, which lies in the
output folder under the step's name; ``{data}`` is the folder of the collections, ``{output}`` the output folder itself.
``limit_share`` is the part of a ``--limit`` on the command line that a step gets.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mice_st.commands.checks import check_options
from mice_st.commands.parser import parse_flags, read_flags
from mice_st.commands.registry import COMMANDS, load_reference
from mice_st.files import read_json, write_json
from mice_st.training.flat import as_flat, with_defaults

MODEL_COMMANDS = ("convert", "train", "merge")  # their output is a model folder, which keeps the recipe that made it
FILE_COMMANDS = {"mine": ".jsonl", "label": ".jsonl", "evaluate": ".json"}  # their output is a file of this kind
STEP_COMMANDS = (*MODEL_COMMANDS, *FILE_COMMANDS)
PLACEHOLDER = re.compile(r"\{([\w.-]+)\}")
MARKERS = "steps"  # folder of one JSON file for each finished step


@dataclass(frozen=True)
class Step:
    """One step with everything filled in.

    Attributes:
        name: Its name in the file.
        command: Command of ``mice-st``.
        options: An instance of the command's dataclass.
    """

    name: str
    command: str
    options: Any


def run_recipe(path: str, flags: Sequence[str] = ()) -> None:
    """Run the steps of a recipe file that are not done yet.

    A step is done when it has left its marker in the output folder; a training step that was cut off goes on from its last checkpoint.
    Under ``torchrun`` all processes train, and the first one does the other steps.

    Args:
        path: The TOML file.
        flags: ``--name value`` in place of what the file says, for each step that has such a flag; ``--data FOLDER``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, a step names an unknown command, flag or step, or was done with other options before.
    """
    from mice_st.hub.files import RECIPE_FILE

    output, steps = read_recipe(path, flags)
    is_first = int(os.environ.get("RANK", "0")) == 0
    if is_first:
        _claim(output)
    for number, step in enumerate(steps, start=1):
        marker = output / MARKERS / f"{step.name}.json"
        wanted = {"command": step.command, "options": as_flat(step.options)}
        if marker.is_file():
            _check_same(marker, wanted, step)
            continue
        if is_first:
            print(f"Step {number} of {len(steps)}: {step.name} ({step.command})", flush=True)
        # What an interrupted run of this recipe left in its own folder may be overwritten.
        check_options(step.command, step.options, overwrite=Path(step.options.output).is_relative_to(output))
        function = load_reference(COMMANDS[step.command].function)
        if step.command == "train":
            function(go_on(step.options))
        elif is_first:
            function(step.options)
        if is_first:
            marker.parent.mkdir(parents=True, exist_ok=True)
            write_json(marker, wanted)
            shutil.copyfile(path, output / RECIPE_FILE)
            if step.command in MODEL_COMMANDS:
                shutil.copyfile(path, Path(step.options.output) / RECIPE_FILE)
        while not marker.is_file():  # the first process is still at it; where it fails, torchrun ends this one too
            time.sleep(0.2)


def _claim(output: Path) -> None:
    """Make the folder of markers, or refuse a folder that no recipe made.

    Raises:
        FileExistsError: If the output holds files and no markers.
    """
    of_a_run = (output / MARKERS, output / "checkpoints")  # the latter of a training that was started by flags
    if output.exists() and not any(folder.is_dir() for folder in of_a_run) and any(output.iterdir()):
        raise FileExistsError(f"output: {output} holds files that no recipe made; give another output")
    (output / MARKERS).mkdir(parents=True, exist_ok=True)


def saved_steps(path: str, flags: Sequence[str] = ()) -> str:
    """Name the steps that are done, for a run that was interrupted."""
    output, steps = read_recipe(path, flags)
    done = [step.name for step in steps if (output / MARKERS / f"{step.name}.json").is_file()]
    finished = f"the steps {', '.join(done)} are done" if done else "no step is done"
    return f"{finished} in {output}, the same command goes on from there"


def read_recipe(path: str, flags: Sequence[str] = ()) -> tuple[Path, list[Step]]:
    """Read a recipe file and fill everything in, without running anything.

    Returns:
        The output folder and the steps; see ``run_recipe`` for the arguments and the errors.
    """
    content = read_toml(path, "recipe")
    given = _group_flags(flags)
    for name in ("output", "data"):
        if name in given:
            content[name] = given.pop(name)[0]
    if "output" not in content:
        raise ValueError(f"{path}: the field 'output' is missing")
    steps = content.pop("steps", None)
    output = Path(content["output"])
    if steps is None:
        content.pop("data", None)
        used: set[str] = set()
        step = _read_step(path, {"name": output.name, **content}, {}, given, {}, used)
        _refuse_unused(given, used)
        return output, [step]
    shared = {name: value for name, value in content.items() if name not in ("output", "data")}
    places = {"data": str(content.get("data", "data")), "output": str(output)}
    read: list[Step] = []
    used = set()
    for step in steps:
        if "name" not in step or step["name"] in places:
            raise ValueError(f"{path}: step {len(read) + 1} has no name, or that of an earlier step")
        place = str(output / f"{step['name']}{FILE_COMMANDS.get(step.get('command', 'train'), '')}")
        read.append(_read_step(path, {"output": place, **step}, shared, given, places, used))
        places[step["name"]] = place
    _refuse_unused(given, used)
    return output, read


def read_toml(path: str, field: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        field: Option that named it, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TOML; names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{field}: there is no file {path}")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_step(
    path: str,
    step: Mapping[str, Any],
    shared: Mapping[str, Any],
    flags: Mapping[str, list[str]],
    places: Mapping[str, str],
    used: set[str],
) -> Step:
    """One step: what the file shares, what the step says, what the command line says, each over the one before."""
    own = dict(step)
    name, command = own.pop("name"), own.pop("command", "train")
    if command not in STEP_COMMANDS:
        raise ValueError(
            f"{path}: step {name!r}: there is no command {command!r}; there are {', '.join(STEP_COMMANDS)}"
        )
    share = own.pop("limit_share", 1.0)
    options_class = load_reference(COMMANDS[command].options)
    # A name of an earlier version stands for today's.
    known = {name: flag.name for flag in read_flags(options_class).values() for name in (flag.name, *flag.aliases)}
    chosen = {known[key]: _words(value) for key, value in shared.items() if key in known}
    chosen |= {known.get(key, key): _words(value) for key, value in own.items()}
    for given, words in flags.items():
        if given in known:
            used.add(given)
            key = known[given]
            chosen[key] = [str(max(1, round(int(words[0]) * share)))] if key == "limit" else _words(list(words))
    arguments = []
    for key, words in chosen.items():
        arguments += [f"--{key}", *(_fill(word, places, f"{path}: step {name!r}: {key}") for word in words)]
    try:
        return Step(name, command, parse_flags(command, options_class, arguments))
    except ValueError as error:
        raise ValueError(f"{path}: step {name!r}: {error}") from error


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Fields and their values as the flags of a command."""
    return [part for name, value in values.items() for part in (f"--{name}", *_words(value))]


def _words(value: Any) -> list[str]:
    """A value of TOML as the words of a flag."""
    if isinstance(value, list):
        return [word for item in value for word in _words(item)]
    return [as_word(value)]


def as_word(value: Any) -> str:
    """A single value of TOML as it stands on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fill(word: str, places: Mapping[str, str], where: str) -> str:
    """Put paths in the place of names."""

    def place(match: re.Match[str]) -> str:
        if match[1] not in places:
            raise ValueError(f"{where}: {match[0]} is no earlier step; there are {', '.join(places)}")
        return places[match[1]]

    return PLACEHOLDER.sub(place, word)


def _group_flags(flags: Sequence[str]) -> dict[str, list[str]]:
    """``--name value value`` as name -> values; a flag without a value is true."""
    grouped: dict[str, list[str]] = {}
    name = None
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            grouped[name] = [value] if equals else []
        elif name is None:
            raise ValueError(f"{word!r} stands before any flag")
        else:
            grouped[name].append(word)
    return {key: values or ["true"] for key, values in grouped.items()}


def _refuse_unused(flags: Mapping[str, Any], used: set[str]) -> None:
    if unknown := sorted(flags.keys() - used):
        options = (f"--{name.replace('_', '-')}" for name in unknown)
        raise ValueError(f"no step of the recipe has the flags {', '.join(options)}")


def _check_same(marker: Path, wanted: dict[str, Any], step: Step) -> None:
    before = read_json(marker)
    names = {alias: flag.name for flag in read_flags(type(step.options)).values() for alias in flag.aliases}
    written = {names.get(name, name): value for name, value in before.get("options", {}).items()}
    options = with_defaults(type(step.options), written)
    if before.get("command") == wanted["command"] and options == wanted["options"]:
        return
    changed = [name for name, value in wanted["options"].items() if options.get(name) != value]
    raise ValueError(
        f"step {step.name!r} was done with other options ({', '.join(changed) or 'command'}): name another output"
    )


def go_on(recipe: Any) -> Any:
    """The recipe, told to resume where a cut-off run has left a complete checkpoint."""
    from mice_st.training.checkpoints import is_complete, list_checkpoints

    checkpoints = Path(recipe.output) / "checkpoints"
    found = list_checkpoints(checkpoints)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if any(is_complete(checkpoint, processes) for checkpoint in found):
        return replace(recipe, resume=True)
    if int(os.environ.get("RANK", "0")) == 0:
        for checkpoint in found:  # cut off while the first was written: there is nothing in it to go on with
            shutil.rmtree(checkpoint)
    return recipe
