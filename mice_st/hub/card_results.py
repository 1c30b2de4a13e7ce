"""Figures of a card: read from what ``mice-st evaluate`` wrote, so that nobody copies them by hand, and arranged in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mice_st.files import read_json
from mice_st.hub.card_facts import Evaluation, Result

SHOWN_DIGITS = 4


@dataclass(frozen=True)
class ResultTable:
    """Results that one command measures, side by side.

    Attributes:
        metric: Of all its figures.
        command: What measures them again.
        tasks: Names of the columns.
        rows: System -> its figures as they are shown, empty where there is none; the card's own model first.
    """

    metric: str
    command: str
    tasks: list[str]
    rows: dict[str, list[str]]


def arrange_results(name: str, results: Sequence[Result]) -> list[ResultTable]:
    """Neighbouring results of one command and one metric as a table.

    Args:
        name: The card's model.
        results: Measured ones only.
    """
    tables = []
    for (metric, command), group in groupby(results, lambda result: (result.metric, result.command)):
        members = list(group)
        compared = (pair for result in members for pair in result.compared.items())
        systems = dict.fromkeys(system for system, value in compared if value is not None)
        rows = {name: [_shown(result.value) for result in members]}
        rows |= {system: [_shown(result.compared.get(system)) for result in members] for system in systems}
        tables.append(ResultTable(metric, command, [result.task for result in members], rows))
    return tables


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.{SHOWN_DIGITS}f}"


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
        groups: dict[str, dict[str, int]] = {}
        for entry in results["sets"]:
            groups.setdefault(entry["group"], {})[entry["name"]] = entry["queries"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: was not written by mice-st evaluate: {type(error).__name__}: {error}") from error
    if evaluation.system not in figures:
        raise ValueError(f"{path}: there is no system {evaluation.system!r}; there are {', '.join(figures)}")
    rows: list[Result] = []
    for group, queries in groups.items():
        for name, count in queries.items():
            rows.append(_row(path, evaluation, figures, f"{name} ({group}, {count:,} queries)", ("sets", name)))
        if len(queries) > 1:
            mean = f"mean {group} ({len(queries)} sets, {sum(queries.values()):,} queries)"
            rows.append(_row(path, evaluation, figures, mean, ("groups", group)))
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
