"""``mice-st mine``: first stages, false negatives, made-up queries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from mice_st.commands import main as cli
from mice_st.data.collection import Collection, write_beir
from mice_st.data.first_stage import BM25
from mice_st.training import mined_rows
from mice_st.training.mined_rows import MineJob, mine
from mice_st.training.mining import mine_rows, search_all, search_bm25, search_vectors
from mice_st.training.pseudo_queries import pseudo_query_collection
from mice_st.training.teachers import Teachers

PETS = Collection(
    "pets",
    {"a": "cat sleeps", "b": "cat purrs", "c": "dog barks", "d": "bird sings", "e": "cat cat dog"},
    {"q": "cat"},
    {"q": {"a": 1}},
)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., MineJob]:
    """``options(**fields)``: two negatives for each query of the collection above."""
    write_beir(PETS, tmp_path / "pets", "train")

    def make(**fields: Any) -> MineJob:
        defaults = {"data": [str(tmp_path / "pets")], "output": str(tmp_path / "rows.jsonl"), "negatives": 2}
        return MineJob(**{**defaults, "device": "cpu", **fields})

    return make


def read(options: MineJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(options.output).read_text().splitlines()]


def test_rows_are_those_of_training_itself(options: Callable[..., MineJob]) -> None:
    made = options()
    assert mine(made) == 1
    (row,) = mine_rows(PETS, made)
    assert read(made) == [
        {"query": "cat", "positive": "cat sleeps", "negatives": list(row.negatives), "source": row.source}
    ]
    assert set(row.negatives) == {"cat purrs", "cat cat dog"}


def test_a_bi_encoder_finds_what_its_similarity_says(embedding_folder: Path, toy: Collection) -> None:
    model = SentenceTransformer(str(embedding_folder), device="cpu")
    run = search_vectors(model)(toy.corpus, toy.queries, 5)
    for query_id, query in list(toy.queries.items())[:5]:
        scores = {item: float(model.encode(query) @ model.encode(text)) for item, text in toy.corpus.items()}
        found = [scores[item] for item in run[query_id]]
        assert found == pytest.approx(sorted(scores.values(), reverse=True)[:5], abs=1e-5)


def test_first_stages_take_turns() -> None:
    one = lambda *_: {"q": {"a": 9.0, "b": 5.0}}  # noqa: E731
    other = lambda *_: {"q": {"c": 0.3, "a": 0.2, "d": 0.1}}  # noqa: E731
    assert list(search_all([one, other])({}, {"q": ""}, 3)["q"]) == ["a", "c", "b", "d"]
    assert search_all([search_bm25])(PETS.corpus, PETS.queries, 5) == BM25(PETS.corpus).search(PETS.queries, 5)


def test_a_teacher_takes_false_negatives_out(options: Callable[..., MineJob], monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {"cat sleeps": 2.0, "cat purrs": 2.5, "cat cat dog": 1.0, "dog barks": 0.0, "bird sings": 0.0}

    class Fixed(Teachers):
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def score(self, queries: Any, documents: Any) -> list[list[float]]:
            return [[marks[text] for text in texts] for texts in documents]

    monkeypatch.setattr(mined_rows, "Teachers", Fixed)
    mine(options(teacher="t", negatives=1))
    assert read(options())[0]["negatives"] == ["cat cat dog"]
    mine(options(teacher="t", negatives=1, margin=1.5, negatives_top_k=2))
    assert read(options())[0]["negatives"][0] in ("dog barks", "bird sings"), "neither of the two that were found"


def test_titles_and_first_sentences_become_queries_and_leave_their_documents(tmp_path: Path) -> None:
    rest = "It has more than ten words so that it is worth finding at all."
    rows = [
        {"_id": "1", "title": "Berlin  museums", "text": rest},
        {"_id": "2", "title": "", "text": f"Rivers of Germany are long. {rest}"},
        {"_id": "3", "title": "Same", "text": f"Bridges cross rivers. {rest} A"},
        {"_id": "4", "title": "same", "text": f"{rest} B"},
        {"_id": "5", "text": "One sentence that goes on"},
        {"_id": "6", "title": "Short", "text": "too short."},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = pseudo_query_collection(tmp_path, "made")
    assert made.queries == {"1": "Berlin museums", "2": "Rivers of Germany are long.", "3": "Bridges cross rivers."}
    assert made.qrels == {item: {item: 1} for item in made.queries}
    assert (made.corpus["1"], made.corpus["2"], made.corpus["3"]) == (rest, rest, f"Same {rest} A")
    assert (made.corpus["5"], made.corpus["6"]) == ("One sentence that goes on", "Short too short.")
    (tmp_path / "corpus.jsonl").write_text(json.dumps(rows[4]))
    with pytest.raises(ValueError, match="made: no document has a title"):
        pseudo_query_collection(tmp_path, "made")


def test_made_up_queries_make_rows_for_a_teacher_to_judge(tmp_path: Path, options: Callable[..., MineJob]) -> None:
    words = "one two three four five six seven eight nine ten cat"
    rows = [{"_id": str(place), "title": f"title {place}", "text": f"{words} {place}"} for place in range(5)]
    folder = tmp_path / "titled"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = options(data=[str(folder)], query_source="pseudo", limit=3)
    assert mine(made) == 3
    for row in read(made):
        assert set(row) == {"query", "documents", "source"}
        assert row["documents"][0] == f"{words} {row['query'].removeprefix('title ')}"
        assert len(set(row["documents"])) == 3


def test_a_killed_run_goes_on_with_the_next_collection(
    options: Callable[..., MineJob], toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = options(data=[*options().data, str(toy_folder)])
    mine(made)
    whole = Path(made.output).read_bytes()
    mined: list[str] = []
    original = mine_rows

    def count(collection: Collection, *arguments: Any) -> Any:
        mined.append(collection.name)
        if len(mined) == 2:
            raise KeyboardInterrupt
        return original(collection, *arguments)

    monkeypatch.setattr(mined_rows, "mine_rows", count)
    with pytest.raises(KeyboardInterrupt):
        mine(made)
    assert mine(made) == 25
    assert len(mined) == 3
    assert Path(made.output).read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--negatives", "0"], "negatives: must be at least 1"),
        (["--queries", "pseudo", "--teacher", "t"], "teacher: rows of pseudo queries"),
        ([], "absent: there is no such folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["mine", "--data", "absent", "--output", str(tmp_path / "rows.jsonl"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_query_without_a_relevant_document_is_passed_over_and_counted(
    options: Callable[..., MineJob], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = {"q": "cat", "r": "dog", "s": "bird", "t": "purrs"}
    qrels = {"q": {"a": 1}, "r": {"c": 0}, "s": {"d": 1, "a": 0}, "t": {"b": 2}}
    write_beir(Collection("pets", PETS.corpus, queries, qrels), tmp_path / "pets", "train")
    with (tmp_path / "pets" / "qrels" / "train.tsv").open("a") as lines:
        lines.write("r\tgone\t1\n")  # relevant, but no document of the corpus
    assert mine(options()) == 3
    assert {row["query"] for row in read(options())} == {"cat", "bird", "purrs"}
    assert "pets: 1 queries have no relevant document in the corpus and are passed over, the first 'r'" in caplog.text
    # With a higher threshold only one judgement is left.
    made = options(relevance_threshold=2, output=str(tmp_path / "two.jsonl"))
    assert mine(made) == 1
    assert [row["query"] for row in read(made)] == ["purrs"]
    with pytest.raises(ValueError, match=r"train\.tsv, line \d+: document 'gone' is not in the corpus"):
        mine(options(strict=True, output=str(tmp_path / "strict.jsonl")))
    assert cli.main(["mine", "--data", str(tmp_path / "pets"), "--output", str(tmp_path / "x.jsonl"), "--strict"]) == 2


def test_the_query_itself_is_neither_negative_nor_positive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = {"1": "Food cat sleeps well", "2": "cat sleeps", "3": "cat purrs", "4": "dog", "twin": "cat sleeps"}
    qrels = {"1": {"1": 1, "2": 1}, "4": {"4": 1, "3": 1}}
    made = Collection("debate", corpus, {"1": "cat sleeps well", "4": "cat"}, qrels, {"1": "cat sleeps well"})
    write_beir(made, tmp_path / "debate", "train")
    job = MineJob([str(tmp_path / "debate")], str(tmp_path / "rows.jsonl"), negatives=4)
    mine(job)
    rows = read(job)
    assert [(row["query"], row["positive"]) for row in rows] == [
        ("cat sleeps well", "cat sleeps"),
        ("cat", "dog"),
        ("cat", "cat purrs"),
    ]
    assert set(rows[0]["negatives"]) == {"cat purrs", "dog"}
    assert "debate: 1 documents that were found have the text of a relevant one and are no negatives" in caplog.text
    # Query 4 has document 4's id and another text: only where all equal ids are ignored is it no positive.
    mine(MineJob(job.data, job.output, negatives=4, ignore_identical_ids=True))
    assert [row["positive"] for row in read(job)] == ["cat sleeps", "cat purrs"]
    assert all("dog" not in row["negatives"] for row in read(job)[1:])


def test_a_bi_encoder_with_a_score_that_is_no_number_is_refused(embedding_folder: Path, toy: Collection) -> None:
    model = SentenceTransformer(str(embedding_folder), device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"query '\w+', document '\w+': the score is nan"):
        search_vectors(model)(toy.corpus, toy.queries, 5)
