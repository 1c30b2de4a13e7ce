"""The figures of a ranking: nDCG, MRR@10, MAP, Success@k, precision and the recall of its candidates.

The metrics themselves are trec_eval's (through pytrec-eval-terrier), so that they are the ones of published tables.
What is decided here is what trec_eval leaves to its caller: ties, missing queries and scores that are no numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mice_st.data.runs import check_finite

CUT = 10
# Of trec_eval, as pytrec_eval takes them.
MEASURES = {"ndcg_cut.10,20", "recip_rank", "set_recall", "map", f"P.{CUT}", "success.1,5,10"}


@dataclass(frozen=True)
class QueryMetrics:
    """The figures of one query, each between 0 and 1. A document is relevant from the threshold of ``evaluate_run`` on.

    Attributes:
        ndcg_at_10: Normalised discounted cumulative gain of the first 10 documents, gain = grade, discount = log2(rank
            + 1). All grades above 0 count, whatever the threshold.
        reciprocal_rank_at_10: 1 / rank of the first relevant document, 0 if it is not among the first 10.
        recall: Share of the relevant documents that are in the run at any rank: the most that re-ranking it could bring
            up.
        average_precision: Mean over the relevant documents of the precision at each one's rank, 0 for those that are
            not in the run.
        ndcg_at_20: As ``ndcg_at_10``, of the first 20 documents.
        success_at_1: 1 where the first document is relevant, else 0.
        success_at_5: 1 where a relevant document is among the first 5, else 0.
        success_at_10: 1 where a relevant document is among the first 10, else 0.
        precision_at_10: Relevant documents among the first 10, divided by 10.
    """

    ndcg_at_10: float = 0.0
    reciprocal_rank_at_10: float = 0.0
    recall: float = 0.0
    average_precision: float = 0.0
    ndcg_at_20: float = 0.0
    success_at_1: float = 0.0
    success_at_5: float = 0.0
    success_at_10: float = 0.0
    precision_at_10: float = 0.0


@dataclass(frozen=True)
class RunMetrics:
    """The figures of a run: means over all judged queries, see ``QueryMetrics``.

    Attributes:
        ndcg_at_10: Mean nDCG@10.
        mrr_at_10: Mean reciprocal rank at 10.
        recall: Mean recall of the candidates, at whatever depth the run has.
        map: Mean average precision.
        per_query: Query id -> its figures, for every query of the judgements, in their order.
        missing_queries: Number of judged queries for which the run holds no document; they score 0 and count in the
            means.
        ndcg_at_20: Mean nDCG@20.
        success_at_1: Share of the queries whose first document is relevant.
        success_at_5: Share of the queries with a relevant document among the first 5.
        success_at_10: Share of the queries with a relevant document among the first 10.
        precision_at_10: Mean precision of the first 10.
    """

    ndcg_at_10: float
    mrr_at_10: float
    recall: float
    map: float
    per_query: dict[str, QueryMetrics]
    missing_queries: int
    ndcg_at_20: float
    success_at_1: float
    success_at_5: float
    success_at_10: float
    precision_at_10: float


def evaluate_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], relevance_threshold: int = 1
) -> RunMetrics:
    """Measure a run against judgements.

    Equal scores are ordered by document id, the larger id (as a string) first. This is trec_eval's rule, and unlike the
    order of the run it gives a model that scores everything alike no credit for the order of its candidates. Scores are
    compared as the floats they are; trec_eval itself would first round them to float32 and so see more ties.

    Args:
        qrels: Query id -> document id -> grade, an integer. Queries without any relevant document score 0.
        run: Query id -> document id -> score, larger is better. Queries that are not judged are passed over.
        relevance_threshold: Lowest grade that is relevant, at least 1; TREC's Deep Learning track takes 2. nDCG counts
            every grade above 0 whatever it is.

    Returns:
        The means over the queries of ``qrels``, and the figures of each.

    Raises:
        ImportError: If pytrec-eval-terrier is not installed; the message names the extra.
        ValueError: If there are no judgements, a score is NaN or infinite, the message names query and document, or the
            threshold is below 1.
    """
    pytrec_eval = _import_pytrec_eval()
    if relevance_threshold < 1:
        raise ValueError(f"relevance_threshold: must be at least 1, got {relevance_threshold}")
    if not qrels:
        raise ValueError("there are no judgements to evaluate against")
    for query_id, scores in run.items():
        check_finite(query_id, scores)
    judged = {query_id: _by_rank(run[query_id]) for query_id in qrels if run.get(query_id)}
    grades = {
        query_id: {document_id: int(grade) for document_id, grade in qrels[query_id].items()} for query_id in judged
    }
    evaluator = pytrec_eval.RelevanceEvaluator(grades, MEASURES, relevance_level=relevance_threshold)
    measured = evaluator.evaluate(judged)
    per_query = {query_id: _query_metrics(measured.get(query_id)) for query_id in qrels}

    def mean(name: str) -> float:
        return math.fsum(getattr(query, name) for query in per_query.values()) / len(per_query)

    return RunMetrics(
        ndcg_at_10=mean("ndcg_at_10"),
        mrr_at_10=mean("reciprocal_rank_at_10"),
        recall=mean("recall"),
        map=mean("average_precision"),
        per_query=per_query,
        missing_queries=len(qrels) - len(judged),
        ndcg_at_20=mean("ndcg_at_20"),
        success_at_1=mean("success_at_1"),
        success_at_5=mean("success_at_5"),
        success_at_10=mean("success_at_10"),
        precision_at_10=mean("precision_at_10"),
    )


def _by_rank(scores: Mapping[str, float]) -> dict[str, float]:
    """Replace scores by minus their rank, which float32 holds exactly: trec_eval's rounding cannot make ties."""
    ranked = sorted(scores, key=lambda document_id: (scores[document_id], document_id), reverse=True)
    return {document_id: -float(rank) for rank, document_id in enumerate(ranked)}


def _query_metrics(measured: Mapping[str, float] | None) -> QueryMetrics:
    """trec_eval's figures of one query as ours; None stands for a query without documents."""
    if measured is None:
        return QueryMetrics()
    reciprocal_rank = measured["recip_rank"]
    return QueryMetrics(
        ndcg_at_10=measured[f"ndcg_cut_{CUT}"],
        # trec_eval has no cut for this one. 1 / CUT is the same float there and here.
        reciprocal_rank_at_10=reciprocal_rank if reciprocal_rank >= 1 / CUT else 0.0,
        recall=measured["set_recall"],
        average_precision=measured["map"],
        ndcg_at_20=measured["ndcg_cut_20"],
        success_at_1=measured["success_1"],
        success_at_5=measured["success_5"],
        success_at_10=measured["success_10"],
        precision_at_10=measured[f"P_{CUT}"],
    )


def _import_pytrec_eval() -> Any:
    """Import pytrec_eval, or say how to get it."""
    try:
        import pytrec_eval
    except ImportError as error:
        raise ImportError('evaluation needs pytrec-eval-terrier: pip install "mice-st[train]"') from error
    return pytrec_eval
