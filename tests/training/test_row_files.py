"""Files of training rows: every format and compression gives the rows of JSON Lines, and faults are named."""

import csv
import gc
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st.training import TrainingRecipe
from mice_st.training.data import describe_rows, load_rows
from mice_st.training.row_files import ConvertedRows, open_rows
from mice_st.training.row_format import make_row
from mice_st.training.rows import RowFile

ROWS = [
    {"anchor": "who", "positive": 'a "cat", quoted', "negative_1": "a dog\nin berlin", "negative_2": "bird"},
    {"anchor": "é", "positive": "p", "negative_1": "n", "negative_2": "m", "negative_10": "ten"},
    {"anchor": "where", "positive": "x", "negative_2": "only"},
]
EXPECTED = [
    ("who", 'a "cat", quoted', ("a dog\nin berlin", "bird")),
    ("é", "p", ("n", "m", "ten")),
    ("where", "x", ("only",)),
]
COLUMNS = ("anchor", "positive", "negative_10", "negative_2", "negative_1")


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows).encode()


def as_table(rows: list[dict[str, Any]], delimiter: str, columns: tuple[str, ...] = COLUMNS) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter=delimiter, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".zst":
        zstandard = pytest.importorskip("zstandard")
        half = len(content) // 2  # two frames, as of a file that was added to
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))
    return content


FORMATS: dict[str, bytes] = {
    ".jsonl": as_lines(ROWS),
    ".ndjson": as_lines(ROWS),
    ".json": as_lines(ROWS),
    " array.json": json.dumps(ROWS, indent=1).encode(),
    ".csv": as_table(ROWS, ","),
    ".tsv": as_table(ROWS, "\t"),
    " bom.csv": b"\xef\xbb\xbf" + as_table(ROWS, ","),
    ".CSV": as_table(ROWS, ","),
}


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, compression: str) -> None:
    path = tmp_path / f"rows{name}{compression}"
    path.write_bytes(compress(FORMATS[name], compression))
    rows = open_rows(path, 7)
    for order in (range(3), (2, 0, 1)):
        read = [rows[place] for place in order]
        assert [(row.query, row.positive, row.negatives) for row in read] == [EXPECTED[place] for place in order]
    assert rows[0].source.startswith(f"{path.name}, line ")
    assert [row.negatives for row in open_rows(path, 1)] == [negatives[:1] for _, _, negatives in EXPECTED]
    assert rows.sizes()[:, 0].tolist() == [3, 4, 2]


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    columns = {name: [row.get(name) for row in ROWS] for name in COLUMNS}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    rows = open_rows(tmp_path / "rows.parquet", 7)
    assert [(row.query, row.positive, row.negatives) for row in rows] == EXPECTED


def test_lines_of_a_table_count_line_breaks_in_texts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(FORMATS[".csv"])
    assert [row.source for row in open_rows(tmp_path / "rows.csv", 7)] == [f"rows.csv, line {n}" for n in (2, 4, 5)]


def test_our_own_names_and_pairs_with_a_score_in_a_table(tmp_path: Path) -> None:
    own = [{"query": "q", "positive": "p", "negative": "n", "other": "passed over"}]
    (tmp_path / "own.csv").write_bytes(as_table(own, ",", ("query", "positive", "negative", "other")))
    assert [(row.query, row.documents, row.scores) for row in open_rows(tmp_path / "own.csv", 7)] == [
        ("q", ("p", "n"), None)
    ]
    pairs = [{"query": "q", "document": "d", "score": "-2.5"}]
    (tmp_path / "pairs.tsv").write_bytes(as_table(pairs, "\t", ("query", "document", "score")))
    assert [(row.documents, row.scores) for row in open_rows(tmp_path / "pairs.tsv", 7)] == [(("d",), (-2.5,))]


def test_a_teachers_scores_of_such_a_row() -> None:
    row = {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [3, 1, 2]}
    made = make_row(row, "here", 7)
    assert (made.documents, made.scores) == (("p", "n", "m"), (3.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"anchor": "q", "positive": "p"}, r"the field 'negative' \(or 'negative_1', \.\.\.\) is missing"),
        ({"anchor": "q", "negative": "n"}, "the field 'positive' is missing"),
        ({"positive": "p", "negative": "n"}, "the field 'query' is missing"),
        ({"anchor": " ", "positive": "p", "negative": "n"}, "anchor: the text of the query is empty"),
        ({"anchor": 3, "positive": "p", "negative": "n"}, "anchor:.*int"),
        ({"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": 4}, "negative_2:.*int"),
        ({"anchor": "q", "positive": "p", "negative": "n", "label": 1.0}, 'a field "label"'),
        ({"anchor": "q", "positive": "p", "negative": "n", "scores": [1.0]}, "scores: expected 2 numbers"),
    ],
)
def test_a_fault_names_file_line_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_lines([ROWS[0], row]))
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3: {message}"):
        open_rows(path, 7)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(as_lines([ROWS[0], row])))
    with pytest.raises(ValueError, match=rf"rows\.jsonl\.gz, line 3: {message}"):
        open_rows(tmp_path / "rows.jsonl.gz", 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"anchor,positive,negative\nq,p\n", "line 2: expected 3 cells, as the header has, found 2"),
        (b"anchor,positive,negative\nq,p,n\nq,p,n,m\n", "line 3: expected 3 cells, as the header has, found 4"),
        (b"anchor,positive,negative\nq,,n\n", "line 2: the field 'positive' is missing"),
        (b"anchor,anchor,negative\n", "line 1: the column 'anchor' is there twice"),
        (b'anchor,positive,negative\nq,"p,n\n', "line 2: unexpected end of data"),
        (b"anchor,positive,negative\nq,\xff,n\n", "line 2: not UTF-8"),
        (b"query,document,score\nq,d,high\n", "line 2: score: must be a number, not 'high'"),
        (b"query,document,score\nq,d,nan\n", "line 2: scores: number 0 is nan"),
        (b"anchor,positive,negative\n", "no rows to train on"),
        (b"", "there is no header"),
    ],
)
def test_faults_of_tables(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"rows\.csv.*{message}"):
        open_rows(tmp_path / "rows.csv", 7)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip", "none of it"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    whole = compress(as_lines(ROWS * 200), suffix)
    changed = {
        "cut": whole[:-9],
        "flip": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        "none of it": b"nothing compressed",
    }[damage]
    (tmp_path / f"rows.jsonl{suffix}").write_bytes(changed)
    with pytest.raises(ValueError, match=rf"rows\.jsonl\{suffix}"):
        open_rows(tmp_path / f"rows.jsonl{suffix}", 7)


def test_a_long_text_in_a_table(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    row = {"anchor": "q", "positive": "word " * 100_000, "negative_1": "n"}
    (tmp_path / "rows.csv").write_bytes(as_table([row], ","))
    assert open_rows(tmp_path / "rows.csv", 7)[0].positive == row["positive"]
    assert csv.field_size_limit() == before


def test_the_temporary_file_goes_with_the_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(FORMATS[".csv"])
    rows = open_rows(tmp_path / "rows.csv", 7)
    assert isinstance(rows, ConvertedRows)
    temporary = rows._path
    assert temporary.exists()
    del rows
    gc.collect()
    assert not temporary.exists()


def test_they_train_beside_our_own(recipe: Callable[..., TrainingRecipe], tmp_path: Path) -> None:
    (tmp_path / "theirs.csv.gz").write_bytes(gzip.compress(FORMATS[".csv"]))
    (tmp_path / "ours.jsonl").write_text(json.dumps({"query": "q", "positive": "p", "negatives": ["n"]}))
    sources = [str(tmp_path / "theirs.csv.gz"), str(tmp_path / "ours.jsonl")]
    rows = load_rows(recipe(train_data=sources))
    assert [row.query for row in rows] == ["who", "é", "where", "q"]
    described = describe_rows(rows, sources)
    assert [part["rows"] for part in described] == [3, 1]
    assert isinstance(open_rows(tmp_path / "ours.jsonl", 7), RowFile)
