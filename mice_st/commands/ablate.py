"""The command ``mice-st ablate``: variants of a conversion and a training, with the same data and the same steps for all.

All variants are converted before the first is trained, so that a grid with a fault ends at once. Variants whose documents go the same way share
their states: those of the training rows in ``states/`` of the output folder, those of the dev sets in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm

from mice_st.commands.ablation_grid import AblateOptions, Variant, folder_name, read_grid
from mice_st.commands.convert import ConvertOptions, run_convert
from mice_st.commands.parser import parse_flags
from mice_st.commands.recipes import flags_of, go_on
from mice_st.evaluation.plots import plot_variants
from mice_st.files import read_json, write_json
from mice_st.loading import load_cross_encoder
from mice_st.states.fingerprint import fingerprint_of
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.stored_states import CODECS
from mice_st.training.trainer import train

DEV, WATCHED = "dev_ndcg@10", "watched_ndcg@10"


def run_ablate(options: AblateOptions) -> None:
    """Train what is not trained yet; write ``ablation.json``, ``ablation.md`` and ``ablation.png``, and print the table."""
    output, variants = read_grid(options)
    states = {
        variant.name: convert_variant(variant, output) for variant in tqdm(variants, "Converting", delay=2, leave=False)
    }
    rows = {}
    # Neighbours with the same states: the evaluators keep those of one encoder.
    order = list(dict.fromkeys(states.values()))
    together = sorted(variants, key=lambda variant: order.index(states[variant.name]))
    for variant in tqdm(together, "Ablation", unit="variant", delay=2):
        rows[variant.name] = measure_variant(variant, output, states[variant.name])
    ordered = [rows[variant.name] for variant in variants]
    table = format_table(ordered)
    write_json(output / "ablation.json", ordered)
    (output / "ablation.md").write_text(table + "\n", encoding="utf-8")
    plot_variants(ordered, output / "ablation.png")
    print(table)


def convert_variant(variant: Variant, output: Path) -> str | None:
    """Make the model that a variant starts from, where it is not there yet.

    Args:
        variant: The variant.
        output: Folder of all variants.

    Returns:
        Path of the store for the states of its training documents, the same for all variants whose documents go the same way; None where
        lower layers are trained, the grid says where the states lie, or the variant is measured already.

    Raises:
        ValueError: If the folder holds another variant, or the conversion or the recipe is impossible; names the variant.
    """
    folder = output / folder_name(variant.name)
    if (made := folder / "variant.json").is_file():
        if read_json(made)["fields"] != _fields(variant):
            raise ValueError(f"{folder}: was made with other fields; name another output")
        return None
    start = folder / "start"
    try:
        recipe = _recipe(variant, folder, None)
        if not (start / "config_sentence_transformers.json").is_file():
            run_convert(parse_flags("convert", ConvertOptions, flags_of({**variant.convert, "output": str(start)})))
    except ValueError as error:
        raise ValueError(f"{variant.name}: {error}") from error
    settings = recipe.settings
    if recipe.dev_data is None:
        raise ValueError("train: dev_data is missing, which the variants are compared on")
    if not (settings.freeze_contextualization and settings.stored_states) or recipe.stored_states_file is not None:
        return None
    model = load_cross_encoder(str(start), max_length=settings.max_length)
    made_by = fingerprint_of(model, CODECS[settings.stored_states_dtype])
    key = hashlib.sha256(f"{made_by.to_json()} {settings.bf16}".encode()).hexdigest()[:16]
    return str(output / "states" / f"{key}.sqlite")


def measure_variant(variant: Variant, output: Path, states: str | None = None) -> dict[str, Any]:
    """Train a converted variant, or read what came of it before.

    Args:
        variant: The variant.
        output: Folder of all variants.
        states: What ``convert_variant`` returned.

    Returns:
        ``variant``, ``steps``, ``seconds`` of training, ``parameters``, the figures of the best checkpoint, and under ``start`` those
        before any training.
    """
    folder = output / folder_name(variant.name)
    path = folder / "variant.json"
    if path.is_file():
        return read_json(path)["row"]
    recipe = _recipe(variant, folder, states)
    result = train(go_on(recipe))
    measured = {entry["step"]: _figures(entry) for entry in result.history if f"eval_{DEV}" in entry}
    row = {
        "variant": variant.name,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "last_loss": fmean([entry["loss"] for entry in result.history if "loss" in entry][-20:]),
        **measured[result.best_step],
        "start": measured[0],
    }
    write_json(path, {"fields": _fields(variant), "row": row})
    return row


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in entry.items() if name.endswith("@10")}


def _recipe(variant: Variant, folder: Path, states: str | None) -> TrainingRecipe:
    shared = {} if states is None else {"stored_states_file": states}
    values = {**variant.train, **shared, "model": str(folder / "start"), "output": str(folder)}
    return parse_flags("train", TrainingRecipe, flags_of(values))


def _fields(variant: Variant) -> dict[str, Any]:
    return {"convert": variant.convert, "train": variant.train}


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The variants as a Markdown table, each with its figures before training and its difference to the first one after it."""
    columns = [name for name in (DEV, WATCHED) if name in rows[0]]
    titles = (part for name in columns for part in (f"{name} at the start", "trained", "±"))
    lines = [["variant", *titles, "parameters", "s"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        figures = [
            part
            for name in columns
            for part in (f"{row['start'][name]:.4f}", f"{row[name]:.4f}", f"{row[name] - rows[0][name]:+.4f}")
        ]
        lines.append([row["variant"], *figures, f"{row['parameters'] / 1e6:.1f}M", f"{row['seconds']:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
