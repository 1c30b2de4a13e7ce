"""Both demos compare systems: candidates, turns, checks, and the rows of a table."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.data.runs import Run
from mice_st.evaluation.metrics import RunMetrics
from mice_st.hub.verification import run_doors

# A query and the ids of its candidates to their scores.
Score = Callable[[str, list[str]], Sequence[float]]


def check_hub_folder(folder: str | Path, model: MiceCrossEncoder, query: str, texts: list[str]) -> None:
    """Load the folder without mice-st in a fresh process, compare scores, and print how far they are apart.

    Raises:
        ValueError: If that process fails, or a score differs by more than 1e-5 times the larger of 1 and itself.
    """
    pairs = [[query, text] for text in texts]
    ours = model.predict(pairs).tolist()
    for door, scores in run_doors(str(folder), None, pairs).items():
        difference = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(scores, ours, strict=True))
        if difference > 1e-5:
            raise ValueError(f"{folder}: scores of {door} differ by {difference}")
        print(f"   {door}: largest difference of {len(texts)} scores {difference:.1e}")


def find_candidates(collection: Collection, query_ids: Sequence[str], top_k: int) -> tuple[Run, float]:
    """BM25's best documents of some queries, and the milliseconds that one query took."""
    bm25 = BM25(collection.corpus)
    began = time.perf_counter()
    candidates = bm25.search({query_id: collection.queries[query_id] for query_id in query_ids}, top_k)
    return candidates, 1000 * (time.perf_counter() - began) / len(query_ids)


def take_turns(
    systems: Mapping[str, Score],
    collection: Collection,
    candidates: Run,
    query_ids: Sequence[str],
    every: Mapping[str, int] | None = None,
) -> tuple[dict[str, Run], dict[str, list[float]]]:
    """Re-rank with several systems, which take turns query by query, so that a busy moment hits all alike.

    Args:
        systems: What is compared.
        collection: Its queries.
        candidates: Query id -> document ids, or a run; queries without any are left out.
        query_ids: Queries.
        every: System -> it scores one query of so many, where each takes it long.

    Returns:
        System -> run, and system -> milliseconds of each query.
    """
    runs: dict[str, Run] = {name: {} for name in systems}
    milliseconds: dict[str, list[float]] = {name: [] for name in systems}
    for place, query_id in enumerate(tqdm(query_ids, desc="Re-ranking", unit="query", delay=2, leave=False)):
        query, ids = collection.queries[query_id], list(candidates[query_id])
        for name, score in systems.items():
            if not ids or place % (every or {}).get(name, 1):
                continue
            began = time.perf_counter()
            scores = score(query, ids)
            milliseconds[name].append(1000 * (time.perf_counter() - began))
            runs[name][query_id] = dict(zip(ids, map(float, scores), strict=True))
    return runs, milliseconds


def largest_difference(texts: Run, stored: Run) -> float:
    """Scores from float16 states against scores from texts: rounding apart, the same.

    Raises:
        ValueError: If they differ by more than rounding does.
    """
    worst = max(abs(score - stored[query][item]) for query, scores in texts.items() for item, score in scores.items())
    if worst > 0.05:
        raise ValueError(f"scores from stored states differ from scores from texts by {worst}")
    return worst


def make_row(name: str, metrics: RunMetrics, milliseconds: float) -> dict[str, Any]:
    """One row of a table."""
    return {
        "system": name,
        "ndcg@10": round(metrics.ndcg_at_10, 4),
        "mrr@10": round(metrics.mrr_at_10, 4),
        "ms_per_query": round(milliseconds, 2),
        "queries": len(metrics.per_query),
    }


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that times depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
