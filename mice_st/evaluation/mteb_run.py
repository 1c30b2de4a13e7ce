"""One system on one task through mteb, with the figures of every query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mice_st.data.runs import Run
from mice_st.evaluation.metrics import RunMetrics, evaluate_run
from mice_st.evaluation.mteb_candidates import run_mteb
from mice_st.evaluation.mteb_model import import_mteb
from mice_st.evaluation.mteb_tasks import SuiteTask
from mice_st.evaluation.suites import CandidateSet


@dataclass(frozen=True)
class TaskMeasurement:
    """The figures of one system on one task.

    Attributes:
        figures: Our metrics, over all judged queries.
        ceiling: Those of a perfect re-ranking of the same candidates.
        result: mteb's ``TaskResult`` as a dictionary.
        run: Query id -> document id -> score, best first.
    """

    figures: RunMetrics
    ceiling: RunMetrics
    result: dict[str, Any]
    run: Run


class FixedRun:
    """A run as a model of mteb: the first stage is measured like any other system.

    Args:
        run: Query id -> document id -> score.
        meta: mteb's ``ModelMeta``.
    """

    def __init__(self, run: Run, meta: Any) -> None:
        self._run = run
        self.mteb_model_meta = meta

    def index(self, corpus: Any, **_: Any) -> None:
        """Nothing: the run is there already.

        Args:
            corpus: Unused.
            **_: Unused.
        """

    def search(self, queries: Any, **_: Any) -> Run:
        """The run.

        Args:
            queries: Rows with ``id``.
            **_: Unused.
        """
        return {query_id: dict(self._run.get(query_id, {})) for query_id in queries["id"]}


def measure(entry: SuiteTask, candidates: CandidateSet, model: Any, batch_size: int = 64) -> TaskMeasurement:
    """Let a system re-rank the candidates of a task.

    Args:
        entry: The task.
        candidates: The task's candidates.
        model: A ``MiceSearch``, a ``FixedRun``, or anything else that ``mteb.evaluate`` takes.
        batch_size: Pairs or texts computed at a time.

    Raises:
        ValueError: If a score is not finite, or a candidate was not scored; names query and document.
    """
    rerank_only(entry, candidates)
    result, run = run_mteb(entry, model, batch_size)
    missing = [
        (query_id, document_id)
        for query_id, found in candidates.candidates.items()
        for document_id in found
        if document_id not in run.get(query_id, {})
    ]
    if missing:
        query_id, document_id = missing[0]
        raise ValueError(
            f"{entry.collection.name}: {len(missing)} candidates were not scored; the first: query {query_id!r}, "
            f"document {document_id!r}"
        )
    # In some tasks the queries themselves are documents of the corpus, which mteb scores and does not count.
    run = {
        query_id: {item: score for item, score in run[query_id].items() if item in documents}
        for query_id, documents in candidates.candidates.items()
        if query_id in run
    }
    qrels = entry.collection.qrels
    perfect = {
        query_id: {item: float(qrels[query_id].get(item, 0)) for item in scores} for query_id, scores in run.items()
    }
    ranked = {query_id: dict(sorted(scores.items(), key=lambda item: -item[1])) for query_id, scores in run.items()}
    return TaskMeasurement(
        evaluate_run(qrels, run), evaluate_run(qrels, perfect), json.loads(result.model_dump_json()), ranked
    )


def rerank_only(entry: SuiteTask, candidates: CandidateSet) -> None:
    """Make a task of mteb re-rank these candidates, through mteb's own door for it."""
    if entry.candidates is not None:
        return
    with TemporaryDirectory() as folder:
        (subset,) = entry.task.dataset
        predictions = {
            "mteb_model_meta": {"model_name": candidates.first_stage, "revision": candidates.key[:16]},
            # mteb orders by score and keeps the order of equal ones: ranks say what the first stage's order was.
            subset: {
                entry.split: {
                    query_id: {item: -place for place, item in enumerate(found)}
                    for query_id, found in candidates.candidates.items()
                }
            },
        }
        (Path(folder) / entry.task.prediction_file_name).write_text(json.dumps(predictions), encoding="utf-8")
        deepest = max(len(found) for found in candidates.candidates.values())
        entry.task.convert_to_reranking(folder, top_k=deepest)


def main_score(entry: SuiteTask, result: dict[str, Any]) -> float:
    """The figure that mteb's leaderboard shows for the task."""
    (scores,) = result["scores"][entry.split]
    return scores["main_score"]


def to_task_result(result: dict[str, Any]) -> Any:
    """The dictionary of a measurement as mteb's ``TaskResult``."""
    return import_mteb().TaskResult.from_dict(result)
