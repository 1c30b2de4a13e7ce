"""BM25 against the formula written out."""

import builtins
import math
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mice_st.data.first_stage import BM25

CORPUS = {
    "sort": "Sort the list in place; sort is stable.",
    "copy": "Return a shallow copy of the list.",
    "open": "Open a file and return a stream.",
    "empty": "",
}


def reference_scores(corpus: dict[str, str], query: str) -> dict[str, float]:
    """Lucene's BM25 with k1 1.5 and b 0.75, term by term, for texts without stop words."""
    words = {document_id: re.findall(r"\b\w\w+\b", text.lower()) for document_id, text in corpus.items()}
    mean_length = sum(map(len, words.values())) / len(words)
    scores = dict.fromkeys(corpus, 0.0)
    for term in re.findall(r"\b\w\w+\b", query.lower()):
        holders = sum(term in document for document in words.values())
        idf = math.log(1 + (len(corpus) - holders + 0.5) / (holders + 0.5))
        for document_id, document in words.items():
            frequency = Counter(document)[term]
            scores[document_id] += (
                idf * frequency / (frequency + 1.5 * (0.25 + 0.75 * len(document) / mean_length)) if frequency else 0.0
            )
    return {document_id: score for document_id, score in scores.items() if score > 0}


VOCABULARY = ["ant", "bee", "cat", "dog", "eel"]
texts = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, min_size=1, max_size=12), texts, st.integers(1, 15))
def test_agrees_with_the_formula(documents: list[str], query: str, top_k: int) -> None:
    # Ids in an order that is not that of the alphabet, so that ties by id differ from ties by position.
    corpus = {f"d{(7 * position) % 13:02d}": text for position, text in enumerate(documents)}
    found = BM25(corpus).search({"q": query}, top_k)["q"]
    expected = reference_scores(corpus, query)
    assert len(found) == min(top_k, len(expected))
    for document_id, score in found.items():
        assert score == pytest.approx(expected[document_id], rel=1e-5)
    ranked = list(found.items())
    assert ranked == sorted(ranked, key=lambda item: (-item[1], item[0]))
    left_out = [expected[document_id] for document_id in expected.keys() - found.keys()]
    assert all(score <= min(found.values()) * (1 + 1e-5) for score in left_out)


def test_best_document_first() -> None:
    run = BM25(CORPUS).search({"q1": "stable sort of a list", "q2": "RETURN"})
    assert list(run) == ["q1", "q2"]
    assert list(run["q1"]) == ["sort", "copy"]
    assert run["q2"].keys() == {"copy", "open"}


def test_ties_do_not_depend_on_the_order_of_the_corpus() -> None:
    # Two scores, many documents each: numpy sorts short arrays stably whatever one asks for.
    same = {f"d{position:03d}": "words words" if position % 2 else "other words" for position in range(300)}
    expected = sorted(same, key=lambda document_id: (same[document_id] != "words words", document_id))
    for top_k in (4, 200, 300):
        assert list(BM25(same).search({"q": "words"}, top_k)["q"]) == expected[:top_k]
        assert list(BM25(dict(reversed(same.items()))).search({"q": "words"}, top_k)["q"]) == expected[:top_k]


@pytest.mark.parametrize("query", ["", "the of a", "zebra", "x", "?!"])
def test_query_that_finds_nothing(query: str) -> None:
    assert BM25(CORPUS).search({"q": query, "r": "list"}, 1) == {
        "q": {},
        "r": BM25(CORPUS).search({"r": "list"}, 1)["r"],
    }


def test_corpus_without_words() -> None:
    assert BM25({"a": "", "b": "the"}).search({"q": "list"}) == {"q": {}}


def test_small_input_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    BM25(CORPUS).search({"q": "list"})
    assert capfd.readouterr() == ("", "")


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="empty"):
        BM25({})
    with pytest.raises(ValueError, match="document 'b' is NoneType"):
        BM25({"a": "x", "b": None})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="query 'q' is int"):
        BM25(CORPUS).search({"q": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="at least 1, not 0"):
        BM25(CORPUS).search({"q": "list"}, 0)


def test_missing_bm25s_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_bm25s(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "bm25s":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_bm25s)
    with pytest.raises(ImportError, match=r'pip install "mice-st\[train\]"'):
        BM25(CORPUS)
