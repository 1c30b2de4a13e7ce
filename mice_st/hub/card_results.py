"""Figures of a card, read from what ``mice-st evaluate`` wrote, so that nobody copies them by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mice_st.hub.card_facts import Evaluation, Result
from mice_st.hub_folder import read_json


def read_evaluations(folder: Path, evaluations: Sequence[Evaluation]) -> list[Result]:
    """The figures of evaluations as rows of a card.

    Args:
        folder: The model folder, where the files lie.
        evaluations: Which system of which file.

    Returns:
        For each evaluation a row for each of its sets, and one for the mean of each group of several sets, each with the other systems of
        the same run.

    Raises:
        FileNotFoundError: If a file is not in the folder.
        ValueError: If a file was not written by ``mice-st evaluate``, or lacks the system or the metric; lists those there are.
    """
    return [row for evaluation in evaluations for row in _rows(folder / evaluation.file, evaluation)]


def _rows(path: Path, evaluation: Evaluation) -> list[Result]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: evaluations names this file, but there is none")
    try:
        results = read_json(path)
        figures = {system["name"]: system for system in results["systems"]}
        groups: dict[str, list[str]] = {}
        for entry in results["sets"]:
            groups.setdefault(entry["group"], []).append(entry["name"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: was not written by mice-st evaluate: {type(error).__name__}: {error}") from error
    if evaluation.system not in figures:
        raise ValueError(f"{path}: there is no system {evaluation.system!r}; there are {', '.join(figures)}")
    rows: list[Result] = []
    for group, names in groups.items():
        rows += [_row(path, evaluation, figures, f"{name} ({group})", ("sets", name)) for name in names]
        if len(names) > 1:
            rows.append(_row(path, evaluation, figures, f"mean {group}", ("groups", group)))
    return rows


def _row(path: Path, evaluation: Evaluation, figures: dict[str, Any], task: str, place: tuple[str, str]) -> Result:
    """One row: the system's figure, and those of the others."""
    where, key = place
    found = {name: system[where][key].get(evaluation.metric) for name, system in figures.items()}
    value = found.pop(evaluation.system)
    if not isinstance(value, int | float) or not math.isfinite(value):
        known = ", ".join(figures[evaluation.system][where][key])
        raise ValueError(f"{path}: {task}: there is no {evaluation.metric} of {evaluation.system}; there are {known}")
    return Result(task, evaluation.metric, evaluation.command, value, found)
