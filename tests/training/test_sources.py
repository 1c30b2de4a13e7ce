"""Sources of training rows: files read line by line, mixtures, collections by name, public sets of the Hub's schemas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from mice_st.training import TrainingRecipe
from mice_st.training.batches import TokenBatches
from mice_st.training.data import load_rows, rows_to_dataset
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import RowFile

Recipe = Callable[..., TrainingRecipe]
Write = Callable[..., str]

MSMARCO = "sentence-transformers/msmarco"
ETTIN = "cross-encoder/ettin-reranker-v1-data"


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"query": f"q{place}", "positive": f"p{place}", "negatives": [f"n{place}"] * (1 + place % 3)}
        for place in range(start, start + count)
    ]


def test_a_file_is_read_again_row_by_row_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).replace("q3", "ä3") for row in numbered(2000)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    rows = RowFile(path, 2)
    assert len(rows) == 2000
    for place in (1999, 0, 3, 1234):
        expected = json.loads(lines[place])
        assert rows[place] == TrainingRow(
            expected["query"],
            expected["positive"],
            tuple(expected["negatives"][:2]),
            None,
            f"rows.jsonl, line {2 * place + 1}",
        )
    assert [row.query for row in rows[5:8]] == ["q5", "q6", "q7"]
    assert rows[-1] == rows[1999]
    with pytest.raises(IndexError):
        rows[2000]
    # No row is kept: a row costs the numbers of where it lies.
    kept = [value for value in vars(rows).values() if isinstance(value, np.ndarray)]
    assert sum(array.itemsize * array.shape[1] for array in kept) == 24


def test_the_hash_of_a_file_sees_its_rows_and_how_many_negatives_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    hashes = set()
    for text, negatives in (("a", 2), ("b", 2), ("b", 1)):
        path.write_text(json.dumps({"query": text, "positive": "p", "negatives": ["n", "m"]}))
        hashes.add(RowFile(path, negatives).sha256)
    assert len(hashes) == 3


def test_three_forms_of_a_row(recipe: Recipe, write_rows: Write) -> None:
    judged = {"query": "q", "documents": ["a", "b", "c"], "scores": [1.0, 3.0, 2.0]}
    assert load_rows(recipe(train_data=write_rows(judged))) == [
        TrainingRow("q", "b", ("a", "c"), (3.0, 1.0, 2.0), "rows.jsonl, line 1")
    ]
    pair = {"query": "q", "document": "d", "score": -2}
    assert load_rows(recipe(train_data=write_rows(pair))) == [TrainingRow("q", "d", (), (-2.0,), "rows.jsonl, line 1")]
    for fault, message in [
        ({"query": "q", "documents": ["a"]}, "scores: documents that nobody has judged"),
        ({"query": "q", "documents": []}, "documents: must be a list"),
        ({"query": "q", "documents": ["a", "b"], "scores": [1]}, "scores: expected 2 numbers"),
        ({"query": "q", "document": "d", "score": None}, "scores: number 0 is None"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_rows(recipe(train_data=write_rows(fault)))


def test_sources_are_mixed_by_weight_and_drawn_by_seed(recipe: Recipe, tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 100)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, numbered(10, start))))
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [row.query for row in load_rows(recipe(train_data=sources))] == [
        f"q{place}" for place in (*range(10), *range(100, 110))
    ]
    mixed = [row.query for row in load_rows(recipe(train_data=sources, train_weights=[2.0, 0.5]))]
    assert mixed[:20] == [f"q{place}" for place in range(10)] * 2
    assert len(mixed) == 25
    assert set(mixed[20:]) < {f"q{place}" for place in range(100, 110)}
    few = [row.query for row in load_rows(recipe(train_data=sources, limit=7))]
    assert len(set(few)) == 7
    assert few == [row.query for row in load_rows(recipe(train_data=sources, limit=7))]
    assert few != [row.query for row in load_rows(recipe(train_data=sources, limit=7, seed=1))]
    hashes = {
        load_rows(recipe(train_data=sources, **fields)).sha256
        for fields in ({}, {"limit": 7}, {"limit": 7, "seed": 1}, {"train_weights": [2.0, 0.5]})
    }
    assert len(hashes) == 4


def test_scored_and_unscored_sources_do_not_mix(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"query": "q", "positive": "p", "negatives": ["n"]}))
    (tmp_path / "b").write_text(json.dumps({"query": "q", "positive": "p", "negatives": ["n"], "scores": [1, 0]}))
    with pytest.raises(ValueError, match=r"train_data: one of .*a and .*b has scores"):
        load_rows(recipe(train_data=[str(tmp_path / "a"), str(tmp_path / "b")]))
    with pytest.raises(ValueError, match="train_weights: must be one number"):
        recipe(train_data=["a", "b"], train_weights=[1.0])


def test_a_collection_by_its_name_is_mined(recipe: Recipe, toy_folder: Path) -> None:
    assert load_rows(recipe(train_data=f"{toy_folder}:dev")) == load_rows(recipe(train_data=str(toy_folder)))
    assert len(load_rows(recipe(train_data="python-docs", limit=5))) == 5


@pytest.fixture
def hub_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``hub_copy(name, {configuration: rows})``: a local copy of a dataset repository, in Parquet."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(name: str, configurations: dict[str, list[dict[str, Any]]]) -> str:
        folder = tmp_path / name
        lines = ["---", "configs:"]
        for configuration, rows in configurations.items():
            (folder / configuration).mkdir(parents=True)
            file = f"{configuration}/train-00000-of-00001.parquet"
            datasets.Dataset.from_list(rows).to_parquet(folder / file)
            lines += [f"- config_name: {configuration}", "  data_files:", "  - split: train", f"    path: {file}"]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
        return str(folder)

    return make


MARGIN_ROWS = [
    {"query_id": "7", "positive_id": "11", "negative_id": "30", "score": 4.5},
    {"query_id": "8", "positive_id": "30", "negative_id": "11", "score": -1.0},
]
TEXTS = {
    "queries": [{"query_id": "8", "query": "rivers"}, {"query_id": "7", "query": "cats"}],
    "corpus": [{"passage_id": "30", "passage": "the Rhine"}, {"passage_id": "11", "passage": "cats sleep"}],
}


def test_ms_marco_with_the_margins_of_an_ensemble(recipe: Recipe, hub_copy: Callable[..., str]) -> None:
    path = hub_copy(MSMARCO, {"bert-ensemble-margin-mse": MARGIN_ROWS, **TEXTS})
    rows = load_rows(recipe(train_data=f"{path}:bert-ensemble-margin-mse"))
    assert [(row.query, row.positive, row.negatives, row.scores) for row in rows] == [
        ("cats", "cats sleep", ("the Rhine",), (4.5, 0.0)),
        ("rivers", "the Rhine", ("cats sleep",), (-1.0, 0.0)),
    ]
    assert rows[1].source.endswith("msmarco:bert-ensemble-margin-mse, row 1")
    columns = rows_to_dataset(rows, "margin_mse", 1.0)[0]
    assert (columns["positive"], columns["negative_1"], columns["label"]) == ("cats sleep", "the Rhine", [4.5, 0.0])
    with pytest.raises(ValueError, match="only bert-ensemble-margin-mse can be read, not triplets"):
        load_rows(recipe(train_data=f"{path}:triplets"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"score": float("nan")}, "margin-mse, row 1: score is nan"),
        ({"score": None}, "margin-mse, row 1: score is None"),
        ({"negative_id": "404"}, "margin-mse, row 1: there is no passage with the id '404'"),
    ],
)
def test_a_bad_row_of_ms_marco_is_named(
    recipe: Recipe, hub_copy: Callable[..., str], fault: dict, message: str
) -> None:
    path = hub_copy(MSMARCO, {"bert-ensemble-margin-mse": [MARGIN_ROWS[0], MARGIN_ROWS[1] | fault], **TEXTS})
    with pytest.raises(ValueError, match=message):
        load_rows(recipe(train_data=path))[1]


def test_an_id_with_two_texts_is_refused(recipe: Recipe, hub_copy: Callable[..., str]) -> None:
    corpus = [*TEXTS["corpus"], {"passage_id": "30", "passage": "another text"}]
    path = hub_copy(MSMARCO, {"bert-ensemble-margin-mse": MARGIN_ROWS, **TEXTS, "corpus": corpus})
    with pytest.raises(ValueError, match="passage: the id '30' is there twice"):
        load_rows(recipe(train_data=path))


def test_pairs_with_the_logits_of_a_large_reranker(recipe: Recipe, hub_copy: Callable[..., str]) -> None:
    first = [{"query": "q1", "document": "d1", "label": 7.25}]
    second = [{"query": "q2", "document": "d2", "label": -3.5}]
    path = hub_copy(ETTIN, {"agnews": first, "quora": second})
    expected = [("q1", "d1", (), (7.25,)), ("q2", "d2", (), (-3.5,))]
    for source, pairs in ((path, expected), (f"{path}:quora", expected[1:]), (f"{path}:agnews+quora", expected)):
        rows = load_rows(recipe(train_data=source))
        assert [(row.query, row.positive, row.negatives, row.scores) for row in rows] == pairs
    sizes = load_rows(recipe(train_data=path)).sizes()
    assert sizes.tolist() == [[1, 3], [1, 3]]


def test_batches_by_tokens_hold_every_row_once_and_little_padding() -> None:
    generator = np.random.default_rng(0)
    sizes = np.stack([generator.integers(2, 9, 5000), generator.integers(5, 200, 5000)], axis=1).astype(np.uint32)
    sizes[17] = (8, 5000)  # more than a batch may hold
    batches = TokenBatches(sizes, 4096, 1, seed=0)
    first = list(batches)
    assert sorted(row for batch in first for row in batch) == list(range(5000))
    padded = [sizes[batch, 0].sum() * sizes[batch, 1].max() for batch in first]
    assert [17] in first
    assert max(tokens for tokens, batch in zip(padded, first, strict=True) if batch != [17]) <= 4096
    tokens = int((sizes[:, 0] * sizes[:, 1]).sum())
    assert sum(padded) < 1.15 * tokens
    # Batches of as many rows each, drawn at random, are padded to almost twice their tokens.
    shuffled = generator.permutation(5000).reshape(-1, 8)
    assert sum(sizes[batch, 0].sum() * sizes[batch, 1].max() for batch in shuffled) > 1.5 * tokens


def test_batches_by_tokens_follow_seed_and_epoch_and_keep_their_number() -> None:
    sizes = np.stack([np.full(1000, 4), np.arange(1000) % 90 + 5], axis=1).astype(np.uint32)
    batches, again = TokenBatches(sizes, 2000, 2, seed=0), TokenBatches(sizes, 2000, 2, seed=0)
    assert len(batches) % 2 == 0
    first = list(batches)
    assert first == list(again)
    assert len(first) == len(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert len(second) == len(first)
    assert second != first
    assert list(TokenBatches(sizes, 2000, 2, seed=1)) != first
    with pytest.raises(ValueError, match=r"batch_tokens: .* 1 batches for 2 processes"):
        TokenBatches(sizes[:2], 10**6, 2, seed=0)
