"""The figures of a ranking: nDCG@10, MRR@10, MAP and the recall of its candidates.

The metrics themselves are trec_eval's (through pytrec-eval-terrier), so that they are the ones of published tables.
What is decided here is what trec_eval leaves to its caller: ties, missing queries and scores that are no numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CUT = 10


@dataclass(frozen=True)
class QueryMetrics:
    """The figures of one query, each between 0 and 1.

    Attributes:
        ndcg_at_10: Normalised discounted cumulative gain of the first 10 documents, gain = grade, discount = log2(rank
            + 1).
        reciprocal_rank_at_10: 1 / rank of the first relevant document (grade at least 1), 0 if it is not among the
            first 10.
        recall: Share of the relevant documents that are in the run at any rank: the most that re-ranking it could bring
            up.
        average_precision: Mean over the relevant documents of the precision at each one's rank, 0 for those that are
            not in the run.
    """

    ndcg_at_10: float
    reciprocal_rank_at_10: float
    recall: float
    average_precision: float


@dataclass(frozen=True)
class RunMetrics:
    """The figures of a run: means over all judged queries.

    Attributes:
        ndcg_at_10: Mean nDCG@10.
        mrr_at_10: Mean reciprocal rank at 10.
        recall: Mean recall of the candidates, at whatever depth the run has.
        map: Mean average precision.
        per_query: Query id -> its figures, for every query of the judgements, in their order.
        missing_queries: Number of judged queries for which the run holds no document; they score 0 and count in the
            means.
    """

    ndcg_at_10: float
    mrr_at_10: float
    recall: float
    map: float
    per_query: dict[str, QueryMetrics]
    missing_queries: int


def evaluate_run(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]) -> RunMetrics:
    """Measure a run against judgements.

    Equal scores are ordered by document id, the larger id (as a string) first. This is trec_eval's rule, and unlike the
    order of the run it gives a model that scores everything alike no credit for the order of its candidates. Scores are
    compared as the floats they are; trec_eval itself would first round them to float32 and so see more ties.

    Args:
        qrels: Query id -> document id -> grade, an integer; at least 1 is relevant. Queries without any relevant
            document score 0.
        run: Query id -> document id -> score, larger is better. Queries that are not judged are passed over.

    Returns:
        The means over the queries of ``qrels``, and the figures of each.

    Raises:
        ImportError: If pytrec-eval-terrier is not installed; the message names the extra.
        ValueError: If there are no judgements, or a score is NaN or infinite; the message names query and document.
    """
    pytrec_eval = _import_pytrec_eval()
    if not qrels:
        raise ValueError("there are no judgements to evaluate against")
    for query_id, scores in run.items():
        for document_id, score in scores.items():
            if not math.isfinite(score):
                raise ValueError(f"query {query_id!r}, document {document_id!r}: the score is {score}")
    judged = {query_id: _by_rank(run[query_id]) for query_id in qrels if run.get(query_id)}
    grades = {
        query_id: {document_id: int(grade) for document_id, grade in qrels[query_id].items()} for query_id in judged
    }
    evaluator = pytrec_eval.RelevanceEvaluator(grades, {f"ndcg_cut.{CUT}", "recip_rank", "set_recall", "map"})
    measured = evaluator.evaluate(judged)
    per_query = {query_id: _query_metrics(measured.get(query_id)) for query_id in qrels}
    return RunMetrics(
        ndcg_at_10=math.fsum(query.ndcg_at_10 for query in per_query.values()) / len(per_query),
        mrr_at_10=math.fsum(query.reciprocal_rank_at_10 for query in per_query.values()) / len(per_query),
        recall=math.fsum(query.recall for query in per_query.values()) / len(per_query),
        map=math.fsum(query.average_precision for query in per_query.values()) / len(per_query),
        per_query=per_query,
        missing_queries=len(qrels) - len(judged),
    )


def _by_rank(scores: Mapping[str, float]) -> dict[str, float]:
    """Replace scores by minus their rank, which float32 holds exactly: trec_eval's rounding cannot make ties."""
    ranked = sorted(scores, key=lambda document_id: (scores[document_id], document_id), reverse=True)
    return {document_id: -float(rank) for rank, document_id in enumerate(ranked)}


def _query_metrics(measured: Mapping[str, float] | None) -> QueryMetrics:
    """trec_eval's figures of one query as ours; None stands for a query without documents."""
    if measured is None:
        return QueryMetrics(0.0, 0.0, 0.0, 0.0)
    reciprocal_rank = measured["recip_rank"]
    return QueryMetrics(
        ndcg_at_10=measured[f"ndcg_cut_{CUT}"],
        # trec_eval has no cut for this one. 1 / CUT is the same float there and here.
        reciprocal_rank_at_10=reciprocal_rank if reciprocal_rank >= 1 / CUT else 0.0,
        recall=measured["set_recall"],
        average_precision=measured["map"],
    )


def _import_pytrec_eval() -> Any:
    """Import pytrec_eval, or say how to get it."""
    try:
        import pytrec_eval
    except ImportError as error:
        raise ImportError('evaluation needs pytrec-eval-terrier: pip install "mice-st[train]"') from error
    return pytrec_eval
