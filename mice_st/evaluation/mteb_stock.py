"""mteb's own wrapper around ``CrossEncoder`` beside ours, on the same candidates: the figures and the time of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from mice_st.data.runs import Run
from mice_st.evaluation.mteb_model import load_for_mteb
from mice_st.evaluation.mteb_run import measure
from mice_st.evaluation.mteb_tasks import SuiteTask
from mice_st.evaluation.suites import CandidateSet
from mice_st.evaluation.systems import BM25_NAME
from mice_st.evaluation.tables import format_markdown
from mice_st.loading import model_kind


def compare_with_stock(
    models: Sequence[str],
    tasks: Iterable[tuple[SuiteTask, CandidateSet]],
    device: str | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Measure each MICE model by mteb's stock wrapper and by ours, one after the other, both anew.

    The stock model is ``CrossEncoder(model, trust_remote_code=True)``, which mteb drives pair by pair: it runs the code
    in the model's folder.

    Args:
        models: Folders or Hub ids; models of other kinds are passed over.
        tasks: The tasks with their candidates.
        device: Where models compute.
        max_length: Longest document or pair, in tokens.
        batch_size: Pairs or texts computed at a time.

    Returns:
        For each task and model ``set``, ``system``, ``ndcg@10``, ``stock_ndcg@10``, ``largest_difference`` (of a
        score), ``seconds`` and ``stock_seconds`` (encoding included, loading not).

    Raises:
        ValueError: If none of the models is MICE; otherwise as ``measure``.
    """
    mice = [name for name in models if name != BM25_NAME and model_kind(name) == "mice"]
    if not mice:
        raise ValueError("stock: none of the models is MICE, so there is nothing to compare mteb's wrapper with")
    lengths: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
    rows: list[dict[str, Any]] = []
    for entry, candidates in tasks:
        for name in mice:
            ours, _ = load_for_mteb(name, device, max_length)
            stock = CrossEncoder(
                name, trust_remote_code=True, device=device, activation_fn=torch.nn.Identity(), **lengths
            )
            start = perf_counter()
            by_ours = measure(entry, candidates, ours, batch_size)
            middle = perf_counter()
            by_stock = measure(entry, candidates, stock, batch_size)
            rows.append(
                {
                    "set": entry.collection.name,
                    "system": Path(name).name,
                    "ndcg@10": by_ours.figures.ndcg_at_10,
                    "stock_ndcg@10": by_stock.figures.ndcg_at_10,
                    "largest_difference": largest_difference(by_ours.run, by_stock.run),
                    "seconds": middle - start,
                    "stock_seconds": perf_counter() - middle,
                }
            )
    return rows


def largest_difference(run: Run, other: Run) -> float:
    """The largest difference of a score between two runs over the same candidates."""
    return max(
        abs(score - other[query_id][document_id])
        for query_id, scores in run.items()
        for document_id, score in scores.items()
    )


def format_stock(rows: list[dict[str, Any]]) -> str:
    """The comparison as a Markdown table."""
    header = [
        "set",
        "system",
        "nDCG@10",
        "by mteb's wrapper",
        "largest difference of a score",
        "seconds",
        "its seconds",
    ]
    return format_markdown(
        header,
        [
            [
                row["set"],
                row["system"],
                f"{row['ndcg@10']:.4f}",
                f"{row['stock_ndcg@10']:.4f}",
                f"{row['largest_difference']:.1e}",
                f"{row['seconds']:.1f}",
                f"{row['stock_seconds']:.1f}",
            ]
            for row in rows
        ],
    )
