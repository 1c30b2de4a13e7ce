"""Documents in memory with their ids."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mice_st.data.documents import Document
from mice_st.data.inputs import as_documents, as_texts

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
datasets = pytest.importorskip("datasets")
langchain = pytest.importorskip("langchain_core.documents")

WANTED = [Document("a", "Berlin a city", {"year": 1999}), Document("7", "a dog")]
ROWS = [
    {"_id": "a", "title": "Berlin", "text": "a city", "year": 1999},
    {"_id": "7", "title": "", "text": "a dog", "year": None},
]
FORMS: dict[str, Callable[[], Any]] = {
    "documents": lambda: WANTED,
    "generator": lambda: iter(WANTED),
    "tuples": lambda: [("a", "Berlin a city", {"year": 1999}), (7, "a dog")],
    "mapping": lambda: {"a": {"title": "Berlin", "text": "a city", "metadata": {"year": 1999}}, 7: "a dog"},
    "dictionaries": lambda: [
        {"_id": "a", "title": "Berlin", "text": "a city", "metadata": {"year": 1999}},
        {"id": np.int64(7), "text": "a dog"},
    ],
    "data frame": lambda: pandas.DataFrame(ROWS, dtype=object),
    "polars": lambda: polars.DataFrame(ROWS),
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "langchain": lambda: [
        langchain.Document(id="a", page_content="Berlin a city", metadata={"year": 1999}),
        langchain.Document(id="7", page_content="a dog"),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_documents(form: str) -> None:
    found = list(as_documents(FORMS[form]()))
    # A table whose row has nothing in the other columns says that there is no metadata; the other forms say nothing.
    assert found[1].metadata == ({} if form in ("data frame", "polars", "dataset") else None)
    assert [document._replace(metadata=document.metadata or None) for document in found] == WANTED


def test_a_data_frame_with_integer_ids_and_missing_numbers() -> None:
    """pandas makes whole numbers floats where one of them is missing."""
    frame = pandas.DataFrame(
        {"id": [1, 2], "text": ["x", "y"], "day": pandas.to_datetime(["2020-01-02", None]), "n": [1, np.nan]}
    )
    assert list(as_documents(frame)) == [
        Document("1", "x", {"day": "2020-01-02T00:00:00", "n": 1.0}),
        Document("2", "y", {}),
    ]


def test_documents_are_taken_one_after_the_other() -> None:
    documents = as_documents(iter([("a", "x"), ("b", None)]))
    assert next(documents) == Document("a", "x")
    with pytest.raises(ValueError, match="document 1: the text of 'b' is of type NoneType"):
        next(documents)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["a text"], r"document 0: expected \(id, text\)"),
        ("a text", "expected a list of texts, got one str"),
        ({("a", "x")}, "a set has no order"),
        ([("a", "x"), (None, "y")], "document 1: no id"),
        ([(1.5, "x")], "document 0: the id must be a string or an integer, not 1.5"),
        ([("", "x")], "document 0: the id is empty"),
        ([{"text": "x"}], 'document 0: no "_id" and no "id"'),
        ([{"id": 1}], "document 0: document '1' has no \"text\""),
        ([("a", "x", {"n": float("nan")})], "document 0: the metadata 'n' of document 'a'"),
        ([("a", "x", {1: "n"})], "document 0: the metadata 1 of document 'a' .* name is of type int"),
        ([("a", "x", ["n"])], "document 0: the metadata of 'a' are of type list"),
        ([langchain.Document(page_content="x")], "document 0: no id"),
        (pandas.DataFrame({"body": ["x"]}), "needs the column 'text'; there are body"),
    ],
)
def test_what_is_no_document_is_named_by_its_row(documents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(as_documents(documents))


def test_states_stay_as_they_are() -> None:
    class States:
        states = input_ids = ()

    states: Any = States()
    assert as_texts(["x", states])[1] is states
