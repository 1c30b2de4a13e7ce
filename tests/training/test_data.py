"""Rows: what is read, what is mined, and that every fault says where it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.training import TrainingRecipe
from mice_st.training.data import load_rows, rows_to_dataset
from mice_st.training.mining import mine_rows
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import fingerprint

GOOD = {"query": "how many people", "positive": "three people", "negatives": ["a cat", "a dog"]}

Recipe = Callable[..., TrainingRecipe]
Write = Callable[..., str]


def test_rows_are_read_in_order_with_their_places(recipe: Recipe, write_rows: Write) -> None:
    path = write_rows(GOOD, "", GOOD | {"query": "who", "negatives": ["a", "b", "c", "d"]})
    rows = load_rows(recipe(train_data=path, negatives=3))
    assert rows == [
        TrainingRow("how many people", "three people", ("a cat", "a dog"), None, "rows.jsonl, line 1"),
        TrainingRow("who", "three people", ("a", "b", "c"), None, "rows.jsonl, line 3"),
    ]


def test_scores_are_cut_with_their_negatives(recipe: Recipe, write_rows: Write) -> None:
    path = write_rows(GOOD | {"scores": [3, 2.5, -1]})
    assert load_rows(recipe(train_data=path, negatives=1))[0].scores == (3.0, 2.5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"query": "q", "negatives": ["a"]}, "the field 'positive' is missing"),
        ({"query": "q", "positive": "a"}, "the field 'negatives' is missing"),
        (GOOD | {"query": " "}, "query: the text of the query is empty"),
        (GOOD | {"query": 3}, "query: is of type int, not a string"),
        (GOOD | {"positive": None}, "positive: is of type NoneType, not a string"),
        (GOOD | {"positive": "\ud800"}, "positive: holds a lone surrogate"),
        (GOOD | {"negatives": []}, "negatives: must be a list of at least one text"),
        (GOOD | {"negatives": "a cat"}, "negatives: must be a list of at least one text"),
        (GOOD | {"negatives": ["a cat", 7]}, "negatives: text 1 is of type int"),
        (GOOD | {"scores": [1, 2]}, "scores: expected 3 numbers, .* got 2"),
        (GOOD | {"scores": 1}, "scores: expected 3 numbers, .* got int"),
        (GOOD | {"scores": [1, float("nan"), 2]}, "scores: number 1 is nan"),
        (GOOD | {"scores": [1, 2, float("inf")]}, "scores: number 2 is inf"),
        (GOOD | {"scores": [1, True, 2]}, "scores: number 1 is True"),
        (GOOD | {"scores": [1, 2, 3]}, "scores: given in one of this row and that of rows.jsonl, line 1"),
        (GOOD | {"score": [1, 2, 3]}, 'called "scores"'),
        ([1], "not a JSON object but list"),
        ("{", "Expecting property name"),
    ],
)
def test_a_fault_names_file_line_and_field(recipe: Recipe, write_rows: Write, fault: Any, message: str) -> None:
    path = write_rows(GOOD, fault)
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 2: .*{message}"):
        load_rows(recipe(train_data=path))


def test_bytes_that_are_no_text_name_file_and_line(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe{}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        load_rows(recipe(train_data=str(tmp_path / "rows.jsonl")))


def test_no_rows_and_no_file_are_errors(recipe: Recipe, write_rows: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        load_rows(recipe(train_data=write_rows("")))
    with pytest.raises(FileNotFoundError, match="train_data"):
        load_rows(recipe(train_data=str(tmp_path / "absent.jsonl")))


def test_mined_negatives_are_the_hard_ones_and_never_relevant(recipe: Recipe, toy: Collection) -> None:
    rows = mine_rows(toy, recipe(negatives=3, negatives_top_k=3))
    best = BM25(toy.corpus).search(toy.queries, 10)
    assert [row.query for row in rows] == list(toy.queries.values())
    for row, query_id in zip(rows, toy.queries, strict=True):
        assert row.positive == toy.corpus[f"d{query_id[1:]}"]
        assert row.positive not in row.negatives
        assert len(set(row.negatives)) == 3
        hard = [toy.corpus[item] for item in best[query_id] if toy.corpus[item] != row.positive][:3]
        assert set(hard) <= set(row.negatives)


def test_mining_follows_the_seed_and_not_the_other_queries(recipe: Recipe, toy: Collection) -> None:
    few = Collection("toy", toy.corpus, dict(list(toy.queries.items())[:5]), toy.qrels)
    first = mine_rows(toy, recipe(negatives=2, negatives_top_k=6))
    assert mine_rows(toy, recipe(negatives=2, negatives_top_k=6)) == first
    assert mine_rows(few, recipe(negatives=2, negatives_top_k=6)) == first[:5]
    assert mine_rows(toy, recipe(negatives=2, negatives_top_k=6, seed=1)) != first
    assert len(mine_rows(toy, recipe(limit=7))) == 7


def test_found_positives_are_those_that_a_re_ranker_would_meet(recipe: Recipe) -> None:
    corpus = {"a": "cat", "b": "cat cat purrs", "c": "feline sleeps all day", "d": "dog barks", "e": "bird sings"}
    collection = Collection("pets", corpus, {"q": "cat sleeping?"}, {"q": {"b": 1, "c": 1}})
    # BM25 knows no synonyms: "b" shares a word with the query, "c" none.
    assert [row.positive for row in mine_rows(collection, recipe(negatives=1, negatives_top_k=2))] == [
        "cat cat purrs",
        "feline sleeps all day",
    ]
    found = mine_rows(collection, recipe(negatives=1, negatives_top_k=2, found_positives=True))
    assert [(row.positive, row.negatives) for row in found] == [("cat cat purrs", ("cat",))]
    hidden = Collection("pets", corpus, {"q": "cat"}, {"q": {"c": 1}})
    with pytest.raises(ValueError, match="pets: the first stage finds none of the relevant documents"):
        mine_rows(hidden, recipe(negatives=1, negatives_top_k=1, found_positives=True))


def test_every_relevant_document_makes_a_row_and_none_is_a_negative(recipe: Recipe) -> None:
    corpus = {"a": "cat dog", "b": "cat dog bird", "c": "cat", "twin": "cat dog", "judged": "cat bird"}
    collection = Collection("pets", corpus, {"q": "cat"}, {"q": {"a": 1, "b": 2, "judged": 0}})
    rows = mine_rows(collection, recipe(negatives=4))
    assert [row.positive for row in rows] == ["cat dog", "cat dog bird"]
    # "cat" has the query's own text, and the twin a relevant document's.
    assert [row.negatives for row in rows] == [("cat bird",), ("cat bird",)]


@pytest.mark.parametrize(
    ("collection", "message"),
    [
        (Collection("c", {"a": "cat"}, {"q": " "}, {"q": {"a": 1}}), "'q'.*the text of the query is empty"),
        (Collection("c", {"a": "cat"}, {"q": "dog"}, {"q": {"a": 0}}), "c: no query has a relevant document"),
        (Collection("c", {"a": "cat"}, {"q": "dog"}, {"q": {"a": 1}}), "'q': no document of the corpus is left"),
        (Collection("c", {"a": "cat"}, {}, {}), "no queries"),
    ],
)
def test_a_collection_that_cannot_be_mined_says_why(recipe: Recipe, collection: Collection, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mine_rows(collection, recipe())


def test_layouts_of_the_losses() -> None:
    plain = [TrainingRow("q", "p", ("n", "m"), None, "row 0")]
    scored = [TrainingRow("q", "p", ("n", "m"), (3.0, 1.0, 2.0), "row 0")]
    assert rows_to_dataset(plain, "list_net", 10.0)[0] == {
        "query": "q",
        "documents": ["p", "n", "m"],
        "labels": [10.0, 0.0, 0.0],
        "source": "row 0",
    }
    assert rows_to_dataset(plain, "lambda", 10.0)[0]["labels"] == [1.0, 0.0, 0.0]
    assert rows_to_dataset(scored, "list_net", 10.0)[0]["labels"] == [3.0, 1.0, 2.0]
    columns = rows_to_dataset(scored, "margin_mse", 10.0)
    assert list(columns[0]) == ["query", "positive", "negative_1", "negative_2", "label", "source"]
    assert columns[0]["label"] == [3.0, 1.0, 2.0]


def test_margin_mse_refuses_ragged_or_unscored_rows() -> None:
    scored = TrainingRow("q", "p", ("n", "m"), (3.0, 1.0, 2.0), "row 0")
    with pytest.raises(ValueError, match="row 1: negatives: 1, the first row has 2"):
        rows_to_dataset([scored, TrainingRow("q", "p", ("n",), (1.0, 2.0), "row 1")], "margin_mse", 1.0)
    with pytest.raises(ValueError, match="row 1: scores"):
        rows_to_dataset([scored, TrainingRow("q", "p", ("n", "m"), None, "row 1")], "margin_mse", 1.0)


def test_fingerprint_sees_every_field_that_trains() -> None:
    row = TrainingRow("q", "p", ("n",), (1.0, 2.0), "here")
    assert fingerprint([row]) == fingerprint([TrainingRow("q", "p", ("n",), (1.0, 2.0), "there")])
    others = [
        TrainingRow("x", "p", ("n",), (1.0, 2.0), "here"),
        TrainingRow("q", "x", ("n",), (1.0, 2.0), "here"),
        TrainingRow("q", "p", ("x",), (1.0, 2.0), "here"),
        TrainingRow("q", "p", ("n",), (1.0, 2.5), "here"),
        TrainingRow("q", "p", ("n",), None, "here"),
    ]
    assert len({fingerprint([row]), *(fingerprint([other]) for other in others)}) == 6
