"""Queries that are documents themselves, by id and text, as in ArguAna; equal ids that say nothing, as in Cranfield."""

import pytest

from mice_st.data.collection import Collection
from mice_st.data.own_documents import find_own_documents, search_without_own, without_own

ARGUANA = Collection(
    "mixed",
    {"a": "meat is safe", "b": "Food fish is safe", "c": "other", "d": "we say fish is safe", "z": "x"},
    {"a": "meat is safe", "b": "fish is safe", "c": "words", "d": "fish is safe", "q": "x"},
    {"a": {"z": 1}},
    {"b": "fish is safe"},
)


def test_id_and_text_must_be_equal(caplog: pytest.LogCaptureFixture) -> None:
    found = find_own_documents(ARGUANA)
    assert found.left_out == {"a", "b"}
    assert found.kept == {"c", "d"}
    assert found.counts == {"own_documents_left_out": 2, "identical_ids_kept": 2}
    assert "mixed: 2 queries have the id of a document with another text, the first 'c'" in caplog.text


def test_all_identical_ids_can_be_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert find_own_documents(ARGUANA, ignore_identical_ids=True).left_out == {"a", "b", "c", "d"}
    assert not caplog.records


def test_a_query_without_its_own_document_has_as_many_candidates() -> None:
    ranked = {"a": {"a": 3.0, "b": 2.0, "c": 1.0}, "q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    asked: list[int] = []

    def search(top_k: int) -> dict[str, dict[str, float]]:
        asked.append(top_k)
        return {query: dict(list(scores.items())[:top_k]) for query, scores in ranked.items()}

    assert search_without_own(search, 2, {"a"}) == {"a": {"b": 2.0, "c": 1.0}, "q": {"a": 3.0, "b": 2.0}}
    assert search_without_own(search, 2, set()) == {"a": {"a": 3.0, "b": 2.0}, "q": {"a": 3.0, "b": 2.0}}
    assert asked == [3, 2], "nothing changes where no document is left out"
    assert without_own(ranked, {"a"})["a"] == {"b": 2.0, "c": 1.0}
