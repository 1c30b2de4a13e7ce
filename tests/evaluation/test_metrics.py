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
    assert metrics.per_query["q2"] == QueryMetrics(1.0, 1.0, 1.0, 1.0)
    assert metrics.per_query["q3"] == QueryMetrics(0.0, 0.0, 0.0, 0.0)
    # ... b is the first relevant one at rank 2, a the second at rank 4, and one is not there at all.
    assert metrics.per_query["q1"].average_precision == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert metrics.map == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert metrics.missing_queries == 1
    assert metrics.ndcg_at_10 == pytest.approx((gain / ideal + 1 + 0) / 3)
    assert metrics.mrr_at_10 == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics.recall == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1.0), (9, 1 / 9), (10, 0.1), (11, 0.0)])
def test_cut_at_10(rank: int, expected: float) -> None:
    scores = {f"d{position}": -float(position) for position in range(1, 15)}
    metrics = evaluate_run({"q": {f"d{rank}": 1}}, {"q": scores})
    assert metrics.mrr_at_10 == expected
    assert metrics.ndcg_at_10 == pytest.approx(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    assert metrics.recall == 1.0


def by_formula(grades: dict[str, int], scores: dict[str, float]) -> tuple[float, ...]:
    """nDCG@10, reciprocal rank at 10, recall and average precision, written out."""
    ranked = sorted(sorted(scores, reverse=True), key=lambda document_id: -scores[document_id])
    gains = [grades.get(document_id, 0) for document_id in ranked]
    ideal = sorted(grades.values(), reverse=True)
    dcg, best = (sum(gain / math.log2(rank + 1) for rank, gain in enumerate(order[:10], 1)) for order in (gains, ideal))
    first = next((1 / rank for rank, gain in enumerate(gains[:10], 1) if gain >= 1), 0.0)
    relevant = {document_id for document_id, grade in grades.items() if grade >= 1}
    if not relevant:
        return 0.0, first, 0.0, 0.0
    hits = [rank for rank, gain in enumerate(gains, 1) if gain >= 1]
    precisions = [place / rank for place, rank in enumerate(hits, 1)]
    return dcg / best, first, len(relevant & scores.keys()) / len(relevant), sum(precisions) / len(relevant)


identifiers = st.sampled_from([f"d{position}" for position in range(20)])


@settings(deadline=None)
@given(
    st.dictionaries(identifiers, st.integers(0, 3), min_size=1),
    st.dictionaries(identifiers, st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -1e300, 1e300])),
)
def test_agrees_with_the_formulas(grades: dict[str, int], scores: dict[str, float]) -> None:
    # 1 + 1e-12 is a tie in float32 and 1e300 infinite there: neither may show.
    metrics = evaluate_run({"q": grades}, {"q": scores}).per_query["q"]
    measured = tuple(vars(metrics).values())
    assert measured == pytest.approx(by_formula(grades, scores), abs=1e-9)


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
