"""Reading and writing collections, good lines and bad ones."""

import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from mice_st.data.collection import Collection, Document, read_beir, read_corpus, write_beir


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def texts(documents: Iterable[Document]) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in documents]


@pytest.fixture
def beir_folder(tmp_path: Path) -> Path:
    """Two documents, two queries, of which the split ``test`` judges one."""
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl",
        '{"_id": "d1", "title": "Sorting", "text": "puts things in order"}',
        '{"_id": "d2", "title": "", "text": "a second one"}',
    )
    write_lines(folder / "queries.jsonl", '{"_id": "q1", "text": "order?"}', '{"_id": "q2", "text": "unjudged"}')
    write_lines(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0")
    write_lines(folder / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "q2\td2\t1")
    return folder


def test_json_lines(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "corpus.jsonl",
        '{"_id": "a", "title": "Title", "text": "text", "more": 1}',
        "",
        '{"id": 7, "text": "no title \\u00e9"}',
        '{"_id": "c", "title": null, "text": ""}',
    )
    assert list(read_corpus(file)) == [Document("a", "Title text"), Document("7", "no title é"), Document("c", "")]


def test_text_lines_keep_their_line_number_as_id(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(b"\xef\xbb\xbffirst\r\n\n  {third}  \nfirst")
    assert texts(read_corpus(file)) == [("0", "first"), ("2", "{third}"), ("3", "first")]


def test_folder_reads_its_corpus(beir_folder: Path) -> None:
    assert dict(texts(read_corpus(str(beir_folder)))) == {"d1": "Sorting puts things in order", "d2": "a second one"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\n \n{"_id": "a", "text": "x"}\n', [("a", "x")]),
        (b"one\n{two}\n", [("0", "one"), ("1", "{two}")]),
        (b"", []),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, expected: list[tuple[str, str]]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert texts(read_corpus("-")) == expected


def test_corpus_is_streamed(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "corpus.jsonl", '{"_id": "a", "text": "x"}', "broken")
    documents = read_corpus(file)
    assert next(documents) == ("a", "x", None)  # before the broken line is looked at
    with pytest.raises(ValueError, match="line 2"):
        next(documents)


BAD_LINES = [
    ("not json", "Expecting value"),
    ('["a", "b"]', "not a JSON object but list"),
    ('{"text": "x"}', 'no "_id"'),
    ('{"_id": null, "text": "x"}', 'no "_id"'),
    ('{"_id": "", "text": "x"}', "the id is empty"),
    ('{"_id": true, "text": "x"}', "string or an integer, not True"),
    ('{"_id": 1.5, "text": "x"}', "string or an integer, not 1.5"),
    ('{"_id": "b"}', "'b' has no \"text\""),
    ('{"_id": "b", "text": 3}', "'b' has no \"text\""),
    ('{"_id": "b", "text": "x", "title": []}', "\"title\" of document 'b'"),
    ('{"_id": "a", "text": "again"}', "'a' is already in line 1"),
    ("[" * 200_000, "nested too deeply|recursion"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = write_lines(tmp_path / "corpus.jsonl", '{"_id": "a", "text": "x"}', "", line)
    with pytest.raises(ValueError, match=f"corpus.jsonl, line 3: .*({message})"):
        list(read_corpus(file))


@pytest.mark.parametrize("name", ["corpus.jsonl", "texts.txt"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "\xff"}\n')
    with pytest.raises(ValueError, match=f"{name}, line 2: 'utf-8' codec"):
        list(read_corpus(file))


def test_skip_keeps_the_good_lines_and_counts_the_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = ['{"_id": "a", "text": "x"}', '{"_id": "z", "text": "y"}']
    file = write_lines(tmp_path / "corpus.jsonl", good[0], *(line for line, _ in BAD_LINES), good[1])
    with caplog.at_level(logging.WARNING):
        assert texts(read_corpus(file, on_error="skip")) == [("a", "x"), ("z", "y")]
    (record,) = caplog.records
    assert f"{len(BAD_LINES)} bad lines" in record.getMessage()
    assert "line 2" in record.getMessage()


def test_no_warning_when_nothing_is_skipped(beir_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(list(read_corpus(beir_folder, on_error="skip"))) == 2
    assert not caplog.records


def test_arguments_are_checked_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"corpus\.jsonl"):
        read_corpus(tmp_path)
    with pytest.raises(ValueError, match="ignore"):
        read_corpus(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_read_beir(beir_folder: Path) -> None:
    collection = read_beir(beir_folder, "test")
    assert collection.name == "small"
    assert collection.corpus == {"d1": "Sorting puts things in order", "d2": "a second one"}
    assert collection.queries == {"q1": "order?"}
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}}


def test_missing_split_lists_the_others(beir_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no split 'train' in .*small; available: dev, test"):
        read_beir(beir_folder, "train")


def test_missing_queries(beir_folder: Path) -> None:
    (beir_folder / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"queries\.jsonl"):
        read_beir(beir_folder, "test")


def test_strict_judgements_name_file_and_line(beir_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(beir_folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td9\t1")
    with pytest.raises(ValueError, match=r"test\.tsv, line 3: document 'd9' is not in the corpus"):
        read_beir(beir_folder, "test", strict=True)
    assert read_beir(beir_folder, "test").qrels == {"q1": {"d1": 2, "d9": 1}}
    assert "1 name a document that the corpus does not have" in caplog.text


def test_written_collection_reads_back(tmp_path: Path) -> None:
    collection = Collection(
        "back",
        {"d 1": "line\nbreak, tab\t, é, \ud800", "d2": ""},
        {"q1": 'quotes " and \\'},
        {"q1": {"d2": 0, "d 1": 3}},
    )
    write_beir(collection, tmp_path / "new" / "back", "dev")
    assert read_beir(tmp_path / "new" / "back", "dev") == collection
    # BEIR's own readers index all three fields.
    first = json.loads((tmp_path / "new" / "back" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["_id", "title", "text"]


def test_second_split_leaves_the_first(tmp_path: Path) -> None:
    train = Collection("two", {"d": "x"}, {"a": "A", "b": "B"}, {"a": {"d": 1}})
    write_beir(train, tmp_path / "two", "train")
    write_beir(Collection("two", train.corpus, train.queries, {"b": {"d": 1}}), tmp_path / "two", "test")
    assert read_beir(tmp_path / "two", "train").qrels == {"a": {"d": 1}}
    assert read_beir(tmp_path / "two", "test").qrels == {"b": {"d": 1}}


@pytest.mark.parametrize(
    "collection",
    [
        Collection("bad", {"d": "x"}, {"q": "y"}, {"other": {"d": 1}}),
        Collection("bad", {"d": "x"}, {"q": "y"}, {"q": {"other": 1}}),
        Collection("bad", {"d\t": "x"}, {"q": "y"}, {"q": {"d\t": 1}}),
    ],
)
def test_nothing_is_written_that_could_not_be_read(tmp_path: Path, collection: Collection) -> None:
    with pytest.raises(ValueError, match="query"):
        write_beir(collection, tmp_path / "bad", "test")
    assert not (tmp_path / "bad").exists()


def test_the_title_of_a_document_that_may_be_a_query_is_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "debate"
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl",
        '{"_id": "1", "title": "Food", "text": "meat is safe"}',
        '{"_id": "2", "title": "", "text": "we think meat is safe"}',
        '{"_id": "3", "title": "Food", "text": "no"}',
    )
    write_lines(folder / "queries.jsonl", *(f'{{"_id": "{item}", "text": "meat is safe"}}' for item in "123"))
    write_lines(folder / "qrels" / "test.tsv", *(f"{item}\t3\t1" for item in "123"))
    collection = read_beir(folder, "test")
    assert collection.untitled == {"1": "meat is safe"}
    write_beir(collection, tmp_path / "again" / "debate", "test")
    assert read_beir(tmp_path / "again" / "debate", "test") == collection
