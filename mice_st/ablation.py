"""``mice-st ablate``: what each choice is worth, with the same data and the same steps for all.

A grid is a TOML file: ``output``; a table ``[convert]`` with flags of ``mice-st convert`` and a table ``[train]`` with fields of a training recipe,
which every variant starts from; and a table ``[grid]`` with a list of values for each field that is varied. ``mode = "each"`` (the default)
changes one field at a time, ``mode = "product"`` takes every combination.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from tqdm.auto import tqdm

from mice_st.cli import parse_flags
from mice_st.convert_command import ConvertOptions, run_convert
from mice_st.evaluation.plots import plot_variants
from mice_st.hub_folder import read_json, write_json
from mice_st.recipes import flags_of, go_on
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.trainer import train

BASE = "base"
DEV, WATCHED = "dev_ndcg@10", "watched_ndcg@10"


@dataclass
class AblateOptions:
    """Train the variants of a grid file, and compare them."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("grid",)

    grid: str = field(metadata={"help": "TOML file: output, [convert], [train], [grid]."})
    output: str | None = field(default=None, metadata={"help": "Folder in place of the file's."})
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


def run_ablate(options: AblateOptions) -> None:
    """Train what is not trained yet; write ``ablation.json``, ``ablation.md`` and ``ablation.png``, and print the table."""
    output, variants = read_grid(options)
    rows = []
    for variant in tqdm(variants, "Ablation", unit="variant", delay=2):
        rows.append(measure_variant(variant, output / _folder_name(variant.name)))
    table = format_table(rows)
    write_json(output / "ablation.json", rows)
    (output / "ablation.md").write_text(table + "\n", encoding="utf-8")
    plot_variants(rows, output / "ablation.png")
    print(table)


def read_grid(options: AblateOptions) -> tuple[Path, list[Variant]]:
    """Read a grid file.

    Returns:
        The output folder and the variants, the base first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or a field belongs to neither conversion nor training.
    """
    path = Path(options.grid)
    if not path.is_file():
        raise FileNotFoundError(f"grid: there is no file {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    convert, recipe, grid = (dict(content.get(name, {})) for name in ("convert", "train", "grid"))
    output = options.output or content.get("output")
    if output is None:
        raise ValueError(f"{path}: the field 'output' is missing")
    recipe |= {name: value for name in ("limit", "max_steps") if (value := getattr(options, name)) is not None}
    known = {
        **{item.name: "train" for item in fields(TrainingRecipe)},
        **{
            item.name: "convert" for item in fields(ConvertOptions)
        },  # of both, such as seed, conversion's comes with training's
    }
    for name, values in grid.items():
        if name not in known or name in ("output", "model", "source"):
            raise ValueError(f"{path}: grid: {name!r} is no field of convert or train that can be varied")
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: grid: {name}: must be a list of values, got {values!r}")
    variants = []
    for change in _changes(grid, content.get("mode", "each"), path):
        parts: dict[str, dict[str, Any]] = {"convert": dict(convert), "train": dict(recipe)}
        for name, value in change.items():
            parts[known[name]][name] = value
            if name == "seed":
                parts["train"][name] = value
        label = ", ".join(f"{name}={_word(value)}" for name, value in change.items()) or BASE
        variants.append(Variant(label, parts["convert"], parts["train"]))
    return Path(output), variants


def _changes(grid: dict[str, list[Any]], mode: Literal["each", "product"], path: Path) -> list[dict[str, Any]]:
    if mode == "product":
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if mode != "each":
        raise ValueError(f"{path}: mode: must be each or product, got {mode!r}")
    return [{}, *({name: value} for name, values in grid.items() for value in values)]


def measure_variant(variant: Variant, folder: Path) -> dict[str, Any]:
    """Convert and train one variant, or read what came of it before.

    Returns:
        ``variant``, ``steps``, ``seconds`` of training, ``parameters``, and the figures of the best checkpoint.

    Raises:
        ValueError: If the folder holds another variant, or there is no dev data to compare on.
    """
    path = folder / "variant.json"
    wanted = {"convert": variant.convert, "train": variant.train}
    if path.is_file():
        kept = read_json(path)
        if kept["fields"] != wanted:
            raise ValueError(f"{folder}: was made with other fields; name another output")
        return kept["row"]
    start = folder / "start"
    recipe: TrainingRecipe = parse_flags(
        "train", TrainingRecipe, flags_of({**variant.train, "model": str(start), "output": str(folder)})
    )
    if recipe.dev_data is None:
        raise ValueError("train: dev_data is missing, which the variants are compared on")
    if not (start / "config_sentence_transformers.json").is_file():
        run_convert(parse_flags("convert", ConvertOptions, flags_of({**variant.convert, "output": str(start)})))
    result = train(go_on(recipe))
    best = next(entry for entry in result.history if entry["step"] == result.best_step and f"eval_{DEV}" in entry)
    row = {
        "variant": variant.name,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "last_loss": fmean([entry["loss"] for entry in result.history if "loss" in entry][-20:]),
        **{name.removeprefix("eval_"): value for name, value in best.items() if name.endswith("@10")},
    }
    write_json(path, {"fields": wanted, "row": row})
    return row


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The variants as a Markdown table, with each one's difference to the first."""
    columns = [name for name in (DEV, WATCHED) if name in rows[0]]
    lines = [["variant", *(part for name in columns for part in (name, "±")), "parameters", "s"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        figures = [part for name in columns for part in (f"{row[name]:.4f}", f"{row[name] - rows[0][name]:+.4f}")]
        lines.append([row["variant"], *figures, f"{row['parameters'] / 1e6:.1f}M", f"{row['seconds']:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _folder_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in "=.,_-" else "_" for character in name)
