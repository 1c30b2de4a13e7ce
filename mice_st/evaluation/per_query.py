"""The figures of every query, in a file beside the JSON file of an evaluation: what ``mice-st compare`` reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mice_st.evaluation.metrics import QueryMetrics, RunMetrics, evaluate_run

# Figures of a query, in the order of the file.
QUERY_METRICS = (
    "ndcg@10",
    "mrr@10",
    "map",
    "recall",
    "ceiling",
    "ndcg@20",
    "success@1",
    "success@5",
    "success@10",
    "precision@10",
)


def per_query_file(output: Path) -> Path:
    """Where the figures of every query lie, beside the JSON file of an evaluation."""
    return output.with_suffix(".per_query.csv")


def query_figures(query: QueryMetrics, ceiling: float) -> list[float]:
    """In the order of ``QUERY_METRICS``."""
    first = [query.ndcg_at_10, query.reciprocal_rank_at_10, query.average_precision, query.recall, ceiling]
    success = [query.success_at_1, query.success_at_5, query.success_at_10]
    return [*first, query.ndcg_at_20, *success, query.precision_at_10]


def mean_figures(run: RunMetrics, ceiling: float) -> dict[str, float]:
    """The means of a run by the names in ``QUERY_METRICS``."""
    first = [run.ndcg_at_10, run.mrr_at_10, run.map, run.recall, ceiling]
    success = [run.success_at_1, run.success_at_5, run.success_at_10]
    return dict(zip(QUERY_METRICS, [*first, run.ndcg_at_20, *success, run.precision_at_10], strict=True))


def find_ceilings(qrels: Mapping[str, Mapping[str, int]], candidates: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """nDCG@10 of each query if its candidates were ordered by their grades."""
    perfect = {
        query_id: {item: float(qrels.get(query_id, {}).get(item, 0)) for item in items}
        for query_id, items in candidates.items()
    }
    return {query_id: one.ndcg_at_10 for query_id, one in evaluate_run(qrels, perfect).per_query.items()}


def write_per_query(output: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write the file.

    Args:
        output: JSON file of the evaluation.
        rows: System, group, set, query, and the figures of ``QUERY_METRICS``.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with per_query_file(output).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "group", "set", "query", *QUERY_METRICS])
        writer.writerows(rows)
