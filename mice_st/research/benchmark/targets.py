"""The figures that the package has set itself, each computed from the rows of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mice_st.research.benchmark.options import BenchOptions

# Name, system over whose time, threads, goal for MS MARCO lengths and for 256 tokens: at least.
TIMES_FASTER = [
    ("stored fp16 states: times faster than the cross-encoder", "mice-wide-fp16", 0, (45.0, 80.0)),
    ("stored fp16 states: times faster than the cross-encoder", "mice-wide-fp16", 1, (40.0, 70.0)),
    ("nothing stored: times faster than the cross-encoder", "mice-text", 0, (3.2, 3.4)),
]
OVER_COLBERT = (0.9, 1.1)  # narrow 128, fp16: its time over ColBERT's, at most
STORE_SHARES = [("full width", "wide", 0.10), ("narrow", "narrow", 0.20)]  # of the ranking time, at most
PEAK_SHARE = 0.65  # of the machine's float32 peak in the interaction layers, at least
LARGEST_DIFFERENCE = 1e-5  # from the scores of the obvious path, float32
PEAK_MEMORY_MB = 150.0  # above the model


class Results:
    """Finds figures among rows and phases by what they were measured on."""

    def __init__(
        self, options: BenchOptions, rows: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]]
    ) -> None:
        self.options = options
        self.rows, self.phases = rows, phases

    def milliseconds(self, system: str, lengths: str, threads: int, documents: int | None = None) -> float:
        """Median of a system; NaN where it was not measured."""
        return self._find(self.rows, "system", system, lengths, threads, documents, "ms_per_query")

    def phase(self, name: str, lengths: str, threads: int, figure: str) -> float:
        """A figure of a phase; NaN where it was not measured."""
        return self._find(self.phases, "phase", name, lengths, threads, None, figure)

    def _find(
        self,
        table: Sequence[Mapping[str, Any]],
        key: str,
        name: str,
        lengths: str,
        threads: int,
        documents: int | None,
        figure: str,
    ) -> float:
        wanted = {
            key: name,
            "lengths": lengths,
            "threads": threads,
            "documents": documents or self.options.few,
            "query_tokens": self.options.query,
        }
        found = [row[figure] for row in table if all(row.get(field) == value for field, value in wanted.items())]
        return math.nan if not found or found[0] is None else float(found[0])


def compute_targets(
    options: BenchOptions,
    rows: Sequence[Mapping[str, Any]],
    phases: Sequence[Mapping[str, Any]],
    largest_difference: float,
    memory: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """All targets, in the order of the table.

    Args:
        options: Of the run.
        rows: One per system and workload.
        phases: One per phase and workload.
        largest_difference: Between a MICE score and the obvious path's, over all systems with float32 arithmetic.
        memory: From ``measure_ranking_memory``.

    Returns:
        Dictionaries with ``name``, ``value`` (None where it was not measured), ``target`` (such as ``">= 45"``) and
        ``met`` (None with the value).
    """
    results = Results(options, rows, phases)
    counts = sorted(set(options.threads))
    few, many = options.few, options.many
    made: list[dict[str, Any]] = []
    for name, system, place, goals in TIMES_FASTER:
        if place >= len(counts):
            continue
        for lengths, goal in zip(("msmarco", "256"), goals, strict=True):
            ratio = results.milliseconds("cross-encoder", lengths, counts[place]) / results.milliseconds(
                system, lengths, counts[place]
            )
            made.append(_target(f"{name}, {_where(lengths, few, counts[place])}", ratio, ">=", goal))
    one = counts[0]
    for lengths, goal in zip(("msmarco", "256"), OVER_COLBERT, strict=True):
        ratio = results.milliseconds("mice-narrow-fp16", lengths, one) / results.milliseconds("colbert", lengths, one)
        made.append(_target(f"narrow fp16: time over ColBERT's, {_where(lengths, few, one)}", ratio, "<=", goal))
    for name, variant, goal in STORE_SHARES:
        read = results.phase(f"read {variant} int8 from SQLite", "msmarco", one, "ms")
        share = read / results.milliseconds(f"mice-{variant}-int8-sqlite", "msmarco", one)
        made.append(
            _target(
                f"store read, {name} int8: share of the ranking time, {_where('msmarco', few, one)}", share, "<=", goal
            )
        )
    for lengths in ("msmarco", "256"):
        share = results.phase("interaction layers", lengths, one, "share_of_peak")
        made.append(
            _target(
                f"interaction layers: share of the float32 peak, {_where(lengths, few, one)}", share, ">=", PEAK_SHARE
            )
        )
    made.append(
        _target(
            "scores: largest difference from the obvious path, float32 arithmetic",
            largest_difference,
            "<=",
            LARGEST_DIFFERENCE,
        )
    )
    ratio = results.milliseconds("mice-wide-fp16", "msmarco", one, many) / results.milliseconds(
        "mice-wide-fp16", "msmarco", one
    )
    made.append(
        _target(f"{many} documents: times the cost of {few}, {_where('msmarco', few, one)}", ratio, "<=", many / few)
    )
    above = memory.get("above_model_mb", math.nan)
    made.append(
        _target(f"peak memory of ranking {many} stored documents: MB above the model", above, "<=", PEAK_MEMORY_MB)
    )
    return made


def _where(lengths: str, documents: int, threads: int) -> str:
    tokens = "MS MARCO lengths" if lengths == "msmarco" else f"{lengths} tokens"
    return f"{documents} documents, {tokens}, {threads} thread{'s' if threads > 1 else ''}"


def _target(name: str, value: float, direction: str, goal: float) -> dict[str, Any]:
    if math.isnan(value):
        return {"name": name, "value": None, "target": f"{direction} {goal:g}", "met": None}
    met = value >= goal if direction == ">=" else value <= goal
    return {"name": name, "value": value, "target": f"{direction} {goal:g}", "met": bool(met)}
