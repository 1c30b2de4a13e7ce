"""MiceCrossEncoder: documents and pairs in the forms that people have them in give what lists give, or one error that names the row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mice_st import MiceCrossEncoder
from mice_st.data.documents import Document
from tests.text_pairs import PAIRS, QUERY, agree, rank_alike

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
datasets = pytest.importorskip("datasets")
langchain = pytest.importorskip("langchain_core.documents")

TEXTS = ["a dog", "the capital of germany", "", "berlin is open to people"]
ROWS = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(TEXTS)]
INDEX = [3, 1, 0, 7]  # a data frame that was sorted and filtered

FORMS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "values of a dictionary": lambda: dict(enumerate(TEXTS)).values(),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "array of strings": lambda: np.array(TEXTS),
    "numpy's strings": lambda: [np.str_(text) for text in TEXTS],
    "Series": lambda: pandas.Series(TEXTS),
    "Series with its own index": lambda: pandas.Series(TEXTS, index=INDEX),
    "data frame": lambda: pandas.DataFrame(ROWS, index=INDEX),
    "data frame with titles that are missing": lambda: pandas.DataFrame(
        {"text": TEXTS, "title": [None, np.nan, "", pandas.NA]}
    ),
    "polars": lambda: polars.DataFrame(ROWS),
    "polars' Series": lambda: polars.Series(TEXTS),
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "column of a dataset": lambda: datasets.Dataset.from_list(ROWS)["text"],
    "rows of a dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "dictionaries": lambda: ROWS,
    "documents": lambda: [Document(row["_id"], row["text"]) for row in ROWS],
    "pairs of id and text": lambda: [(row["_id"], row["text"]) for row in ROWS],
    "langchain": lambda: [langchain.Document(page_content=text, metadata={"n": 1}) for text in TEXTS],
}


@pytest.mark.parametrize("form", FORMS)
def test_documents_of_any_form_are_ranked_and_encoded_as_a_list(mice: MiceCrossEncoder, form: str) -> None:
    for passages in (False, True):
        expected = mice.rank(QUERY, TEXTS, return_documents=True, passages=passages)
        found = mice.rank(QUERY, FORMS[form](), return_documents=True, passages=passages)
        rank_alike(found, expected)
        assert [hit["text"] for hit in found] == [TEXTS[hit["corpus_id"]] for hit in found]
    encoded, wanted = mice.encode_documents(FORMS[form]()), mice.encode_documents(TEXTS)
    assert [document.input_ids.tolist() for document in encoded] == [item.input_ids.tolist() for item in wanted]


@pytest.mark.parametrize("form", ["documents", "dictionaries", "langchain"])
def test_predict_takes_documents_of_any_form(mice: MiceCrossEncoder, form: str) -> None:
    expected = mice.predict([(QUERY, text) for text in TEXTS])
    agree(mice.predict([(QUERY, document) for document in FORMS[form]()]), expected)


def test_a_title_stands_before_the_text(mice: MiceCrossEncoder) -> None:
    rows = [{"title": "berlin", "text": "is a city"}, {"title": "", "text": "a dog"}]
    expected = mice.rank(QUERY, ["berlin is a city", "a dog"], return_documents=True)
    for documents in (rows, pandas.DataFrame(rows), datasets.Dataset.from_list(rows)):
        found = mice.rank(QUERY, documents, return_documents=True)
        rank_alike(found, expected)
        assert [hit["text"] for hit in found] == [hit["text"] for hit in expected]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "set": (lambda: set(TEXTS), "a set has no order"),
    "frozenset": (lambda: frozenset(TEXTS), "a set has no order"),
    "dictionary": (lambda: dict(enumerate(TEXTS)), r"a mapping has ids .* give list\(documents\.values\(\)\)"),
    "one row": (lambda: ROWS[0], "expected a list of documents, got one"),
    "one langchain": (lambda: langchain.Document(page_content="a dog"), "expected a list of documents, got one"),
    "number": (lambda: 7, "expected a list of documents, got int"),
    "data frame without text": (
        lambda: pandas.DataFrame({"body": TEXTS, "n": 1}),
        "needs the column 'text'; there are body, n",
    ),
    "polars without text": (lambda: polars.DataFrame({"body": TEXTS}), "needs the column 'text'; there are body"),
    "dataset without text": (lambda: datasets.Dataset.from_dict({"n": [1]}), "needs the column 'text'; there are n"),
    "splits": (lambda: datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "give one of them: train"),
    "column twice": (lambda: pandas.DataFrame([["a", "b"]], columns=["text", "text"]), "'text' is there twice"),
    "array without dimension": (lambda: np.array("a dog"), "an array of no dimension"),
    "None": (lambda: ["a dog", None], "document 1 is of type NoneType"),
    "NaN": (lambda: pandas.Series(["a dog", np.nan], index=[5, 6], dtype=object), "document 1 is of type float"),
    "pandas' NA": (lambda: pandas.Series(["a dog", pandas.NA], dtype="string[python]"), "document 1 is of type NAType"),
    "NaN of a data frame": (
        lambda: pandas.DataFrame({"text": ["a", None]}, dtype=object),
        "document 1 is of type NoneType",
    ),
    "list in a list": (lambda: [["a dog"], ["a cat"]], "document 0 is of type list"),
    "numbers": (lambda: np.arange(3), "document 0 is of type int"),
    "title": (lambda: [{"text": "a dog", "title": 7}], "document 0: the title is of type int"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused_alike_everywhere(mice: MiceCrossEncoder, form: str) -> None:
    make, message = REFUSED[form]
    calls = [lambda: mice.encode_documents(make()), lambda: mice.rank(QUERY, make())]
    for call in [*calls, lambda: mice.rank(QUERY, make(), passages=True)]:
        with pytest.raises(ValueError, match=message):
            call()


PAIR_FORMS: dict[str, Callable[[], Any]] = {
    "generator": lambda: iter(PAIRS),
    "zip": lambda: zip(*zip(*PAIRS, strict=True), strict=True),
    "array": lambda: np.array(PAIRS),
    "list of arrays": lambda: [np.array(pair) for pair in PAIRS],
    "data frame": lambda: pandas.DataFrame(PAIRS, columns=["query", "document"], index=range(len(PAIRS), 0, -1)),
    "data frame without names": lambda: pandas.DataFrame(PAIRS),
    "polars": lambda: polars.DataFrame(PAIRS, schema=["query", "document"], orient="row"),
    "dataset": lambda: datasets.Dataset.from_list([{"q": query, "d": document} for query, document in PAIRS]),
    "Series": lambda: pandas.Series(PAIRS, index=range(len(PAIRS), 0, -1)),
}


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_pairs_of_any_form_are_scored_as_a_list(mice: MiceCrossEncoder, form: str) -> None:
    agree(mice.predict(PAIR_FORMS[form]()), mice.predict(PAIRS))


PAIRS_REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "set": (lambda: set(PAIRS), "pairs: a set has no order"),
    "dictionary": (lambda: dict(PAIRS), "pairs: a mapping holds no"),
    "three columns": (
        lambda: pandas.DataFrame(PAIRS).assign(n=1),
        "must have two columns, query and document; there are 0, 1, n",
    ),
    "missing": (
        lambda: pandas.DataFrame([("who", "a dog"), ("who", None)], dtype=object),
        "pair 1: the document is of type NoneType",
    ),
    "no pair": (lambda: [("who", "a dog"), None], "pair 1: expected"),
    "texts": (lambda: iter(["who", "a dog"]), "pair 0: expected"),
    "number": (lambda: 7, "pair 0: expected .*, got 7"),
    "nothing": (lambda: None, "pair 0: expected .*, got None"),
}


@pytest.mark.parametrize("form", PAIRS_REFUSED)
def test_other_pairs_are_refused(mice: MiceCrossEncoder, form: str) -> None:
    make, message = PAIRS_REFUSED[form]
    with pytest.raises(ValueError, match=message):
        mice.predict(make())


def test_encoded_documents_are_not_encoded_again(mice: MiceCrossEncoder) -> None:
    with pytest.raises(ValueError, match="document 1 is encoded already"):
        mice.encode_documents(["a dog", *mice.encode_documents(["a cat"])])


# --- arguments ---


@pytest.mark.parametrize("top_k", [0, -1])
@pytest.mark.parametrize("call", [{}, {"passages": True}])
def test_a_top_k_below_one_is_refused(mice: MiceCrossEncoder, top_k: int, call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"top_k: must be at least 1, got {top_k}"):
        mice.rank(QUERY, TEXTS, top_k=top_k, **call)


def test_misspelt_arguments_are_refused(mice: MiceCrossEncoder) -> None:
    for call in (
        lambda: mice.rank(QUERY, TEXTS, topk=1),
        lambda: mice.predict(PAIRS, batchsize=1),
        lambda: mice.predict(PAIRS, pool={}, batchsize=1),
        lambda: mice.encode_documents(TEXTS, batch_size=1),  # type: ignore[call-arg]
        lambda: mice.predict(PAIRS, processing_kwargs={"image": {}}),
    ):
        with pytest.raises((TypeError, ValueError), match=r"topk|batchsize|batch_size|image"):
            call()


def test_a_misspelt_argument_of_loading_is_refused(mice_folder: Any) -> None:
    with pytest.raises(TypeError, match="max_lenght"):
        MiceCrossEncoder(str(mice_folder), max_lenght=8)
