"""The metrics against values worked out by hand and against their formulas."""

import builtins
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mice_st.evaluation.metrics import QueryMetrics, evaluate_run


def test_by_hand() -> None:
    qrels = {"q1": {"a": 1, "b": 2, "c": 0, "lost": 1}, "q2": {"d": 1}, "q3": {"e": 1}}
    run = {
        "q1": {"c": 9.0, "b": 8.0, "unjudged": 7.0, "a": 6.0},
        "q2": {"d": 0.1, "x": 0.0},
        "not judged": {"d": 1.0},
    }
    metrics = evaluate_run(qrels, run)
    # q1: b (grade 2) at rank 2, a (grade 1) at rank 4; the ideal order is 2, 1, 1.
    gain = 2 / math.log2(3) + 1 / math.log2(5)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics.per_query["q1"].ndcg_at_10 == pytest.approx(gain / ideal, abs=1e-9)
    assert metrics.per_query["q1"].reciprocal_rank_at_10 == pytest.approx(0.5)
    assert metrics.per_query["q1"].recall == pytest.approx(2 / 3)
    assert metrics.per_query["q2"] == QueryMetrics(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1)
    assert metrics.per_query["q3"] == QueryMetrics()
    # ... b is the first relevant one at rank 2, a the second at rank 4, and one is not there at all.
    assert metrics.per_query["q1"].average_precision == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert metrics.map == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert metrics.missing_queries == 1
    assert metrics.ndcg_at_10 == pytest.approx((gain / ideal + 1 + 0) / 3)
    assert metrics.mrr_at_10 == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics.recall == pytest.approx((2 / 3 + 1 + 0) / 3)
    # The first document is relevant for q2 alone; both q1 and q2 have one among the first five.
    assert metrics.success_at_1 == pytest.approx(1 / 3)
    assert metrics.success_at_5 == metrics.success_at_10 == pytest.approx(2 / 3)
    assert metrics.precision_at_10 == pytest.approx((2 / 10 + 1 / 10 + 0) / 3)


def test_by_hand_with_a_threshold() -> None:
    qrels = {"q1": {"a": 1, "b": 2, "c": 3, "lost": 2}, "q2": {"a": 1}}
    run = {"q1": {"a": 4.0, "b": 3.0, "x": 2.0, "c": 1.0}, "q2": {"a": 1.0}}
    one, two = evaluate_run(qrels, run), evaluate_run(qrels, run, relevance_threshold=2)
    # nDCG counts every grade, whatever the threshold.
    gain = 1 + 2 / math.log2(3) + 3 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 2 / math.log2(4) + 1 / math.log2(5)
    for figures in (one, two):
        assert figures.per_query["q1"].ndcg_at_10 == pytest.approx(gain / ideal, abs=1e-9)
        assert figures.per_query["q2"].ndcg_at_10 == 1.0
    # With 2, b at rank 2, c at rank 4 and the lost one are relevant; nothing is for q2.
    figures = two.per_query["q1"]
    assert figures.reciprocal_rank_at_10 == 0.5
    assert figures.average_precision == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert figures.recall == pytest.approx(2 / 3)
    assert (figures.success_at_1, figures.success_at_5) == (0.0, 1.0)
    assert figures.precision_at_10 == pytest.approx(0.2)
    assert two.per_query["q2"] == QueryMetrics(ndcg_at_10=1.0, ndcg_at_20=1.0)
    assert (one.per_query["q1"].reciprocal_rank_at_10, one.success_at_1) == (1.0, 1.0)
    with pytest.raises(ValueError, match="relevance_threshold: must be at least 1, got 0"):
        evaluate_run(qrels, run, relevance_threshold=0)


def test_a_query_whose_grades_are_all_0_counts_as_0() -> None:
    metrics = evaluate_run({"q": {"a": 0, "b": -1}, "r": {"a": 1}}, {"q": {"a": 2.0}, "r": {"a": 1.0}})
    assert metrics.per_query["q"] == QueryMetrics()
    assert (metrics.ndcg_at_10, metrics.mrr_at_10, metrics.success_at_1, metrics.missing_queries) == (0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1.0), (9, 1 / 9), (10, 0.1), (11, 0.0)])
def test_cut_at_10(rank: int, expected: float) -> None:
    scores = {f"d{position}": -float(position) for position in range(1, 15)}
    metrics = evaluate_run({"q": {f"d{rank}": 1}}, {"q": scores})
    assert metrics.mrr_at_10 == expected
    assert metrics.ndcg_at_10 == pytest.approx(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    assert metrics.recall == 1.0


def by_formula(grades: dict[str, int], scores: dict[str, float], threshold: int) -> tuple[float, ...]:
    """nDCG@10, reciprocal rank at 10, recall, average precision, nDCG@20, Success@1, 5, 10, P@10, written out."""
    ranked = sorted(sorted(scores, reverse=True), key=lambda document_id: -scores[document_id])
    gains = [grades.get(document_id, 0) for document_id in ranked]
    ideal = sorted(grades.values(), reverse=True)

    def ndcg(cut: int) -> float:
        dcg, best = (
            sum(gain / math.log2(rank + 1) for rank, gain in enumerate(order[:cut], 1)) for order in (gains, ideal)
        )
        return dcg / best if best else 0.0

    first = next((1 / rank for rank, gain in enumerate(gains[:10], 1) if gain >= threshold), 0.0)
    relevant = {document_id for document_id, grade in grades.items() if grade >= threshold}
    hits = [rank for rank, gain in enumerate(gains, 1) if gain >= threshold]
    success = [float(any(rank <= cut for rank in hits)) for cut in (1, 5, 10)]
    precision = sum(rank <= 10 for rank in hits) / 10
    share, average = 0.0, 0.0
    if relevant:
        share = len(relevant & scores.keys()) / len(relevant)
        average = sum(place / rank for place, rank in enumerate(hits, 1)) / len(relevant)
    return ndcg(10), first, share, average, ndcg(20), *success, precision


identifiers = st.sampled_from([f"d{position}" for position in range(30)])


@settings(deadline=None)
@given(
    st.dictionaries(identifiers, st.integers(0, 3), min_size=1),
    st.dictionaries(identifiers, st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -1e300, 1e300])),
    st.integers(1, 4),
)
def test_agrees_with_the_formulas(grades: dict[str, int], scores: dict[str, float], threshold: int) -> None:
    # 1 + 1e-12 is a tie in float32 and 1e300 infinite there: neither may show.
    metrics = evaluate_run({"q": grades}, {"q": scores}, threshold).per_query["q"]
    measured = tuple(vars(metrics).values())
    assert measured == pytest.approx(by_formula(grades, scores, threshold), abs=1e-9)


def test_ties_ignore_the_order_of_the_run() -> None:
    qrels = {"q": {"a": 1}}
    forwards = evaluate_run(qrels, {"q": {"a": 1.0, "b": 1.0, "c": 1.0}})
    backwards = evaluate_run(qrels, {"q": {"c": 1.0, "b": 1.0, "a": 1.0}})
    assert forwards == backwards
    assert forwards.mrr_at_10 == pytest.approx(1 / 3)  # larger ids first


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers(score: float) -> None:
    with pytest.raises(ValueError, match=f"query 'q2', document 'b': the score is {score}"):
        evaluate_run({"q1": {"a": 1}, "q2": {"a": 1}}, {"q1": {"a": 1.0}, "q2": {"a": 1.0, "b": score}})


def test_empty_run_and_empty_judgements() -> None:
    metrics = evaluate_run({"q": {"a": 1}, "r": {"a": 1}}, {"r": {}})
    assert (metrics.ndcg_at_10, metrics.mrr_at_10, metrics.recall, metrics.missing_queries) == (0.0, 0.0, 0.0, 2)
    with pytest.raises(ValueError, match="no judgements"):
        evaluate_run({}, {"q": {"a": 1.0}})


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_library(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pytrec_eval":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_library)
    with pytest.raises(ImportError, match=r'pip install "mice-st\[train\]"'):
        evaluate_run({"q": {"a": 1}}, {"q": {"a": 1.0}})
