"""The grid files of ``mice-st ablate``: which variants there are.

A grid is a TOML file: ``output``; a table ``[convert]`` with flags of ``mice-st convert`` and a table ``[train]`` with fields of a training recipe,
which every variant starts from; and a table ``[grid]`` with a list of values for each field that is varied. ``mode = "each"`` (the default)
changes one field at a time, ``mode = "product"`` takes every combination. A table ``[[variants]]`` changes several fields together, and an empty
list takes a field away.
"""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from mice_st.commands.convert import ConvertOptions
from mice_st.commands.recipes import as_word, read_toml
from mice_st.training.flat import flat_fields
from mice_st.training.recipe import TrainingRecipe

BASE = "base"


@dataclass
class AblateOptions:
    """Train the variants of a grid file, and compare them."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("grid",)

    grid: str = field(metadata={"help": "TOML file with output, [convert], [train] and [grid].", "metavar": "FILE"})
    output: str | None = field(
        default=None, metadata={"help": "Folder for all variants, in place of the file's.", "metavar": "FOLDER"}
    )
    limit: int | None = field(default=None, metadata={"help": "Train each variant on this many rows only."})
    max_steps: int | None = field(default=None, metadata={"help": "Steps of each variant, in place of the file's."})


@dataclass(frozen=True)
class Variant:
    """One combination of values.

    Attributes:
        name: What is different from the base, such as ``interaction_layers=3``.
        convert: Flags of the conversion.
        train: Fields of the recipe.
    """

    name: str
    convert: dict[str, Any]
    train: dict[str, Any]


def read_grid(options: AblateOptions) -> tuple[Path, list[Variant]]:
    """Read a grid file.

    Returns:
        The output folder and the variants, the base first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or a field belongs to neither conversion nor training.
    """
    path = Path(options.grid)
    content = read_toml(options.grid, "grid")
    convert, recipe, grid = (dict(content.get(name, {})) for name in ("convert", "train", "grid"))
    output = options.output or content.get("output")
    if output is None:
        raise ValueError(f"{path}: the field 'output' is missing")
    recipe |= {name: value for name in ("limit", "max_steps") if (value := getattr(options, name)) is not None}
    known = {
        **dict.fromkeys(flat_fields(TrainingRecipe), "train"),
        # Of what both have, such as seed, conversion's comes with training's.
        **{item.name: "convert" for item in fields(ConvertOptions)},
    }
    _check(grid, content.get("variants", []), known, path)
    variants = []
    for change in [*_changes(grid, content.get("mode", "each"), path), *content.get("variants", [])]:
        parts: dict[str, dict[str, Any]] = {"convert": dict(convert), "train": dict(recipe)}
        for name, value in change.items():
            for part in {known[name], "train"} if name == "seed" else {known[name]}:
                parts[part].pop(name, None)
                if value != []:
                    parts[part][name] = value
        label = ", ".join(f"{name}={as_word(value)}" for name, value in change.items() if value != []) or BASE
        variants.append(Variant(label, parts["convert"], parts["train"]))
    return Path(output), variants


def _check(grid: dict[str, Any], together: Any, known: Container[str], path: Path) -> None:
    if not isinstance(together, list) or not all(isinstance(change, dict) for change in together):
        raise ValueError(f"{path}: variants: must be tables, [[variants]], got {together!r}")
    for table, names in (("grid", grid), *(("variants", change) for change in together)):
        for name in names:
            if name not in known or name in ("output", "model"):
                raise ValueError(f"{path}: {table}: {name!r} is no field of convert or train that can be varied")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: grid: {name}: must be a list of values, got {values!r}")


def _changes(grid: dict[str, list[Any]], mode: Literal["each", "product"], path: Path) -> list[dict[str, Any]]:
    if mode == "product":
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if mode != "each":
        raise ValueError(f"{path}: mode: must be each or product, got {mode!r}")
    return [{}, *({name: value} for name, values in grid.items() for value in values)]


def folder_name(name: str) -> str:
    """The name of a variant's folder."""
    return "".join(character if character.isalnum() or character in "=.,_-" else "_" for character in name)


def saved_variants(options: AblateOptions) -> str | None:
    """Count the variants that are measured."""
    output, variants = read_grid(options)
    done = sum((output / folder_name(variant.name) / "variant.json").is_file() for variant in variants)
    return f"{done} of {len(variants)} variants are measured in {output}, the same command goes on from there"
