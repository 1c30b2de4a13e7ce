"""mteb's own wrapper around ``CrossEncoder`` beside ours, on the same candidates: what both reach, and what it takes them."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import CrossEncoder

from mice_st.data.first_stage import Run
from mice_st.evaluation.mteb_candidates import find_candidates
from mice_st.evaluation.mteb_model import load_for_mteb
from mice_st.evaluation.mteb_run import measure
from mice_st.evaluation.mteb_tasks import load_tasks
from mice_st.evaluation.systems import BM25_NAME
from mice_st.evaluation.tables import format_markdown
from mice_st.loading import model_kind

if TYPE_CHECKING:
    from mice_st.commands.evaluate import EvaluateOptions


def compare_with_stock(options: EvaluateOptions) -> list[dict[str, Any]]:
    """Measure each MICE model by mteb's stock wrapper and by ours, one after the other, both anew.

    The stock model is ``CrossEncoder(model, trust_remote_code=True)``, which mteb drives pair by pair: it runs the code in the model's folder.

    Args:
        options: The options of the evaluation; models of other kinds are passed over.

    Returns:
        For each task and model ``set``, ``system``, ``ndcg@10``, ``stock_ndcg@10``, ``largest_difference`` (of a score), ``seconds`` and
        ``stock_seconds`` (encoding included, loading not).

    Raises:
        ValueError: If none of the models is MICE; otherwise as ``evaluate_with_mteb``.
    """
    models = [name for name in options.model if name != BM25_NAME and model_kind(name) == "mice"]
    if not models:
        raise ValueError("stock: none of the models is MICE, so there is nothing to compare mteb's wrapper with")
    cache = Path(options.cache or f"{options.output}.cache")
    lengths: dict[str, Any] = {} if options.max_length is None else {"max_length": options.max_length}
    rows: list[dict[str, Any]] = []
    for entry in load_tasks(options.suite, options.queries or None, options.seed):
        candidates = find_candidates(entry, options.first_stage, options.top_k, cache)
        for name in models:
            ours, _ = load_for_mteb(name, options.device, options.max_length)
            stock = CrossEncoder(
                name, trust_remote_code=True, device=options.device, activation_fn=torch.nn.Identity(), **lengths
            )
            start = perf_counter()
            found = measure(entry, candidates, ours, options.batch_size)
            middle = perf_counter()
            expected = measure(entry, candidates, stock, options.batch_size)
            rows.append(
                {
                    "set": entry.collection.name,
                    "system": Path(name).name,
                    "ndcg@10": found.figures.ndcg_at_10,
                    "stock_ndcg@10": expected.figures.ndcg_at_10,
                    "largest_difference": largest_difference(found.run, expected.run),
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
