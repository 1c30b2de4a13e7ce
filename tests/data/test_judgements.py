"""Judgements: the formats that are read, what is counted in one warning, and what is refused."""

import logging
from pathlib import Path

import pytest

from mice_st.data.judgements import find_judgements, read_judgements

HEADER = "query-id\tcorpus-id\tscore"
QUERIES, CORPUS = {"q1", "q2"}, {"d1", "d2", "d 3"}


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding=encoding)
    return path


@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, "q1\td1\t2", "", "q2\td2\t0"),
        ("q1\td1\t2", "q2\td2\t0"),
        ("q1 0 d1 2", "q2 0 d2 0"),
        ("q1\t0\td1\t2", "q2\tQ0\td2\t0"),
        ("  q1   0 d1  2", "q2 0 d2 0 "),
    ],
    ids=["BEIR", "without header", "TREC", "TREC with tabs", "TREC with more spaces"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_formats(tmp_path: Path, lines: tuple[str, ...], encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    file = write_lines(tmp_path / "test.tsv", *lines, encoding=encoding)
    assert read_judgements(file, QUERIES, CORPUS, strict=True) == {"q1": {"d1": 2}, "q2": {"d2": 0}}
    assert not caplog.records


def test_ids_with_spaces_and_negative_grades(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "test.tsv", HEADER, "q1\td 3\t-1")
    assert read_judgements(file, QUERIES, CORPUS, strict=True) == {"q1": {"d 3": -1}}


COUNTED = [
    ("q9\td1\t1", "query 'q9' is not in the collection", "1 name a query", {"d1": 2}),
    ("q1\td9\t1", "document 'd9' is not in the corpus", "1 name a document", {"d1": 2, "d9": 1}),
    ("q1\td2\t1.0", "must be an integer, not '1.0'", "1 have a grade such as 1.0", {"d1": 2, "d2": 1}),
    ("q1\td1\t2", "query 'q1' with document 'd1' is judged twice", "1 repeat an earlier one", {"d1": 2}),
    ("q1\td1\t1", "judged twice", "1 give an earlier one another grade (the later grade counts", {"d1": 1}),
]


@pytest.mark.parametrize(("row", "refused", "warned", "read"), COUNTED, ids=[row for row, *_ in COUNTED])
def test_what_moves_no_figure_is_counted_and_refused_by_strict(
    tmp_path: Path, row: str, refused: str, warned: str, read: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    file = write_lines(tmp_path / "test.tsv", HEADER, "q1\td1\t2", row)
    with pytest.raises(ValueError, match=rf"test\.tsv, line 3: .*{refused}"):
        read_judgements(file, QUERIES, CORPUS, strict=True)
    with caplog.at_level(logging.WARNING):
        assert read_judgements(file, QUERIES, CORPUS) == {"q1": read}
    (record,) = caplog.records
    assert warned in record.getMessage()
    assert "the first in line 3" in record.getMessage()


def test_all_faults_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row for row, *_ in COUNTED] * 2
    read_judgements(write_lines(tmp_path / "test.tsv", HEADER, "q1\td1\t2", *rows), QUERIES, CORPUS)
    (record,) = caplog.records
    for part in ("2 name a query", "2 name a document", "2 have a grade", "line 3: query 'q9'"):
        assert part in record.getMessage()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1\td2\t0.5", "integer, not '0.5'"),
        ("q1\td2\tnan", "integer, not 'nan'"),
        ("q1\td2\tinf", "integer, not 'inf'"),
        ("q1\td2\t1_0", "integer, not '1_0'"),
        ("q1\td2\t", "integer, not ''"),
        ("q1\td2\thigh", "integer, not 'high'"),
        ("q9\td2\t0.5", "integer, not '0.5'"),
        ("q1 d2 1", "expected 3 fields separated by tabs, found 1"),
        ("\td2\t1", "the id of the query or of the document is empty"),
    ],
)
def test_lines_without_a_meaning_are_named(tmp_path: Path, row: str, message: str, strict: bool) -> None:
    file = write_lines(tmp_path / "test.tsv", HEADER, "q1\td1\t2", row)
    with pytest.raises(ValueError, match=rf"test\.tsv, line 3: .*{message}"):
        read_judgements(file, QUERIES, CORPUS, strict)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("corpus-id\tquery-id\tscore", "the header must be query-id, corpus-id, score"),
        ("q1 d1 1", "expected 3 fields separated by tabs"),
        ("q1", "expected 3 fields separated by tabs"),
    ],
)
def test_a_first_line_of_no_known_format(tmp_path: Path, first: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"test\.tsv, line 1: {message}"):
        read_judgements(write_lines(tmp_path / "test.tsv", first), QUERIES, CORPUS)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_bytes(b"q1\td1\t1\nq1\t\xff\t1\n")
    with pytest.raises(ValueError, match=r"test\.tsv, line 2: 'utf-8' codec"):
        read_judgements(tmp_path / "test.tsv", QUERIES, CORPUS)


def test_the_file_of_a_split(tmp_path: Path) -> None:
    trec = write_lines(tmp_path / "qrels" / "dev.qrels", "q1 0 d1 1")
    assert find_judgements(tmp_path, "dev") == trec
    beir = write_lines(tmp_path / "qrels" / "dev.tsv", HEADER)
    assert find_judgements(tmp_path, "dev") == beir
    with pytest.raises(FileNotFoundError, match=r"no split 'test' in .*; available: dev"):
        find_judgements(tmp_path, "test")
