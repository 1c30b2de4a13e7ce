"""The reader of documents: every kind of file, and what is wrong with files that people have."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mice_st.data.documents import Document
from mice_st.data.formats import IN_FOLDER
from mice_st.data.reader import read_corpus
from mice_st.data.tables import MOST_CHARACTERS

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")

ROWS = [
    {"_id": "a", "title": "Berlin", "text": "a city\nof many people"},
    {"_id": "7", "title": "", "text": 'quotes " and, commas\té'},
    {"_id": "c", "title": "Empty", "text": ""},
]
EXPECTED = [
    Document("a", "Berlin a city\nof many people"),
    Document("7", 'quotes " and, commas\té'),
    Document("c", "Empty "),
]


def json_lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Sequence[Any], delimiter: str = ",") -> bytes:
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def parquet_bytes(rows: Sequence[Any]) -> bytes:
    written = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), written, row_group_size=2)
    return written.getvalue()


WRITERS: dict[str, Callable[[Sequence[Any]], bytes]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_lines,
    ".JSONL": json_lines,
    ".Json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": table,
    ".tsv": lambda rows: table(rows, "\t"),
    ".parquet": parquet_bytes,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".ZST": zstandard.compress}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, ending: str, packing: str) -> None:
    file = tmp_path / f"some.documents{ending}{packing}"
    file.write_bytes(PACKERS[packing](WRITERS[ending](ROWS)))
    if ending == ".parquet" and packing:
        with pytest.raises(ValueError, match="Parquet is packed inside"):
            read_corpus(file)
        return
    reader = read_corpus(file)
    assert list(reader) == EXPECTED
    assert reader.total == 3


@pytest.mark.parametrize("packing", PACKERS)
def test_plain_lines(tmp_path: Path, packing: str) -> None:
    file = tmp_path / f"texts.txt{packing}"
    file.write_bytes(PACKERS[packing]("one\n\n{two}\n".encode("utf-8-sig")))
    assert list(read_corpus(file)) == [Document("0", "one"), Document("2", "{two}")]


@pytest.mark.parametrize("name", ["documents", "documents.pdf", "documents.xlsx", "a.tar.gz", ".jsonl", "jsonl.bz2"])
def test_other_names_are_refused_with_a_list_of_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(json_lines(ROWS))
    with pytest.raises(ValueError, match=r"no kind of file that is read: JSON Lines .* CSV and TSV .* Parquet"):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, ending: str) -> None:
    content = b"Berlin" if ending == ".txt" else WRITERS[ending](ROWS[:1])
    plain, marked = tmp_path / f"plain{ending}", tmp_path / f"marked{ending}"
    plain.write_bytes(content)
    marked.write_bytes(b"\xef\xbb\xbf" + content)
    assert list(read_corpus(marked)) == list(read_corpus(plain)) != []


def test_a_file_with_nothing_but_a_byte_order_mark_has_no_documents(tmp_path: Path) -> None:
    for ending in (".jsonl", ".json", ".txt"):
        (tmp_path / f"empty{ending}").write_bytes(b"\xef\xbb\xbf \n")
        assert list(read_corpus(tmp_path / f"empty{ending}")) == []


def test_a_list_of_nothing_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    assert list(read_corpus(tmp_path / "empty.json")) == []


def test_several_packed_parts_in_one_file(tmp_path: Path) -> None:
    """What ``cat a.gz b.gz`` makes."""
    for ending, pack in ((".gz", gzip.compress), (".zst", zstandard.compress)):
        file = tmp_path / f"corpus.jsonl{ending}"
        file.write_bytes(b"".join(pack(json_lines([row])) for row in ROWS))
        assert list(read_corpus(file)) == EXPECTED


# --- metadata and columns ---


def test_metadata_of_a_json_line(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "text": "x", "metadata": {"year": 1999, "tags": ["p", None]}, "other": 1},
        {"_id": "b", "text": "x", "metadata": {}},
        {"_id": "c", "text": "x", "metadata": None},
    ]
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(json_lines(rows))
    assert [document.metadata for document in read_corpus(file)] == [{"year": 1999, "tags": ["p", None]}, {}, None]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[1]", "the \"metadata\" of document 'b' is no object"),
        ('{"score": NaN}', "metadata 'score' of document 'b' cannot be JSON"),
        ('{"score": [1e999]}', "metadata 'score' of document 'b' cannot be JSON"),
    ],
)
def test_metadata_that_json_cannot_hold_are_refused(tmp_path: Path, metadata: str, message: str) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(f'{{"_id": "a", "text": ""}}\n{{"_id": "b", "text": "", "metadata": {metadata}}}\n')
    with pytest.raises(ValueError, match=f"corpus.jsonl, line 2: .*{message}"):
        list(read_corpus(file))


def test_the_other_columns_of_a_csv_are_metadata(tmp_path: Path) -> None:
    file = tmp_path / "pandas.csv"
    file.write_text(",id,text,year,place\n0,a,x,1999,\n1,b,y,,\n")  # as DataFrame.to_csv writes an index
    assert list(read_corpus(file)) == [Document("a", "x", {"year": "1999"}), Document("b", "y", {})]


def test_the_other_columns_of_parquet_keep_their_types(tmp_path: Path) -> None:
    rows = [
        {
            "id": 1,
            "text": "x",
            "year": 1999,
            "day": date(2020, 1, 2),
            "price": Decimal("1.50"),
            "tags": ["p"],
            "flag": True,
            "none": None,
            "metadata": {"url": "u"},
            "__index_level_0__": 7,
        }
    ]
    (tmp_path / "typed.parquet").write_bytes(parquet_bytes(rows))
    (document,) = read_corpus(tmp_path / "typed.parquet")
    assert document == Document(
        "1",
        "x",
        {"url": "u", "year": 1999, "day": "2020-01-02", "price": "1.50", "tags": ["p"], "flag": True},
    )


@pytest.mark.parametrize("value", [b"bytes", float("nan"), float("inf")])
def test_a_column_that_json_cannot_hold_is_named(tmp_path: Path, value: Any) -> None:
    rows = [{"id": "a", "text": "", "extra": None}, {"id": "b", "text": "", "extra": value}]
    (tmp_path / "odd.parquet").write_bytes(parquet_bytes(rows))
    with pytest.raises(ValueError, match=r"odd.parquet, row 1: the metadata 'extra' of document 'b' cannot be JSON"):
        list(read_corpus(tmp_path / "odd.parquet"))


@pytest.mark.parametrize("ending", [".jsonl", ".Json", ".csv", ".parquet"])
def test_named_columns(tmp_path: Path, ending: str) -> None:
    rows = [{"docid": "a", "head": "H", "body": "B"}, {"docid": "b", "head": "", "body": "only"}]
    file = tmp_path / f"named{ending}"
    file.write_bytes(WRITERS[ending](rows))
    documents = list(read_corpus(file, id_column="docid", text_columns=["head", "body"]))
    assert documents == [Document("a", "H B"), Document("b", "only")]
    with pytest.raises(ValueError, match=r"no(_id| column)? \"_id\" and no \"id\""):
        list(read_corpus(file))
    with pytest.raises(ValueError, match="absent"):
        list(read_corpus(file, id_column="docid", text_columns=["absent"]))


def test_missing_columns_list_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "no.csv").write_text("_id;text\n1;2\n")
    with pytest.raises(ValueError, match=r'no.csv, line 1: there is no column "_id" and no "id"; there are _id;text'):
        list(read_corpus(tmp_path / "no.csv"))
    (tmp_path / "no.parquet").write_bytes(parquet_bytes([{"id": "a", "body": "x"}]))
    with pytest.raises(ValueError, match=r"no.parquet, the schema: there is no column 'text'; there are id, body"):
        list(read_corpus(tmp_path / "no.parquet"))


def test_columns_of_lines_that_have_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("x")
    with pytest.raises(ValueError, match="plain lines have no columns"):
        read_corpus(tmp_path / "texts.txt", id_column="id")
    with pytest.raises(ValueError, match="text_columns: expected a list of names, got 'body'"):
        read_corpus(tmp_path / "texts.txt", text_columns="body")


# --- faults ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.csv", 'id,text\na,"two\nlines"\nb\n', "line 4: expected 2 cells, as the header has, found 1"),
        ("long.tsv", "id\ttext\na\tx\ty\n", "line 2: expected 2 cells, as the header has, found 3"),
        ("open.csv", 'id,text\na,"never\nclosed\n', "line 2: unexpected end of data"),
        ("stray.csv", 'id,text\na,"x"y\n', "line 2: ',' expected after '\"'"),
        ("twice.csv", "id,text,text\n", "line 1: the column 'text' is there twice"),
        ("empty.csv", "", "line 1: there is no header"),
        ("noid.csv", "id,text\n,x\n", "line 2: the id is empty"),
        ("same.csv", 'id,text\na,"x\ny"\na,z\n', "line 4: the id 'a' is already in line 2"),
        ("same.json", '[{"id": 1, "text": ""},\n{"id": "1", "text": ""}]', "item 1: the id '1' is already in item 0"),
        ("list.json", '[{"id": 1, "text": ""},\n{"id" 2}]', "line 2: the list is no JSON"),
        ("end.json", '\n[{"id": 1, "text": ""}]\nmore', "line 3: the list is no JSON: Extra data"),
        ("items.json", '[{"id": 1, "text": ""}, "x"]', "item 1: not a JSON object but str"),
        ("deep.json", "[" * 200_000, "nested too deeply"),
        ("pretty.json", '{\n "id": 1,\n "text": ""\n}\n', "line 1: .*each line must hold one whole JSON object"),
        ("pretty.jsonl", '[\n{"id": 1, "text": ""}\n]\n', "line 1: Expecting value"),
    ],
)
def test_a_fault_is_named_with_file_and_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, newline="")
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        list(read_corpus(tmp_path / name))


@pytest.mark.parametrize(("name", "place"), [("a.csv", "line 3"), ("a.json", "line 2"), ("a.tsv", "line 3")])
def test_bytes_that_are_no_utf8_are_named(tmp_path: Path, name: str, place: str) -> None:
    delimiter = b"\t" if name.endswith("tsv") else b","
    content = b"id,text\nx,y\na,\xff\n".replace(b",", delimiter)
    if name.endswith("json"):
        content = b'[{"id": "x", "text": ""},\n{"id": "a", "text": "\xff"}]'
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}, {place}: (not UTF-8|'utf-8' codec)"):
        list(read_corpus(tmp_path / name))


def test_bad_rows_of_a_table_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b'id,text\na,x\nb\nc,"y"z\n\na,again\nd,\xff\ne,good\n')
    reader = read_corpus(tmp_path / "bad.csv", on_error="skip")
    assert [document.id for document in reader] == ["a", "e"]
    assert reader.skipped == 4


def test_a_null_text_of_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "x"}, {"id": "b", "text": None}, {"id": None, "text": "y"}]
    (tmp_path / "null.parquet").write_bytes(parquet_bytes(rows))
    with pytest.raises(ValueError, match=r"null\.parquet, row 1: document 'b' has no .text."):
        list(read_corpus(tmp_path / "null.parquet"))
    reader = read_corpus(tmp_path / "null.parquet", on_error="skip")
    assert [document.id for document in reader] == ["a"]
    assert (reader.skipped, reader.total) == (2, 3)


@pytest.mark.parametrize("ending", [".gz", ".ZST"])
@pytest.mark.parametrize("fault", ["cut off", "other bytes", "not packed", "a byte changed"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_damaged_packed_file_is_named(tmp_path: Path, ending: str, fault: str, on_error: Any) -> None:
    """After the lines before the damage, and whatever is done about bad lines: what is lost cannot be counted."""
    rows = [{"_id": str(number), "text": f"{number * 7919 % 10007}"} for number in range(50_000)]
    whole = PACKERS[ending](json_lines(rows))
    middle = len(whole) // 2
    damaged = {
        "cut off": whole[:middle],
        "other bytes": whole + b"more",
        "not packed": json_lines(rows),
        "a byte changed": whole[: len(whole) - 2] + bytes([whole[-2] ^ 255]) + whole[-1:],
    }[fault]
    if fault == "a byte changed" and ending == ".ZST":
        damaged = whole[:middle] + bytes(200) + whole[middle + 200 :]
    file = tmp_path / f"corpus.jsonl{ending}"
    file.write_bytes(damaged)
    read = 0
    with pytest.raises(
        ValueError, match=rf"corpus.jsonl{ending}(, after line \d+)?: the {ending.lower()} file is damaged"
    ):
        for read, _ in enumerate(read_corpus(file, on_error), start=1):  # noqa: B007
            pass
    assert (read > 0) is (fault != "not packed")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    whole = parquet_bytes([{"id": str(number), "text": "x" * number} for number in range(1000)])
    file = tmp_path / "corpus.parquet"
    for damaged in (b"", b"PAR1", whole[:-9], whole[:2000], json_lines(ROWS)):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"corpus.parquet, the schema: this is no whole Parquet file"):
            list(read_corpus(file))
    file.write_bytes(whole[:2000] + bytes(500) + whole[2500:])
    with pytest.raises(ValueError, match=r"corpus.parquet(, after row \d+)?: the Parquet file is damaged"):
        list(read_corpus(file))


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, ending in (("zstandard", ".jsonl.zst"), ("pyarrow", ".parquet")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        (tmp_path / f"corpus{ending}").write_bytes(b"")
        with pytest.raises(ValueError, match=rf'{module}: pip install "mice-st\[files\]"') as caught:
            read_corpus(tmp_path / f"corpus{ending}")
        assert isinstance(caught.value, ImportError)


# --- long cells, memory, folders ---


def test_a_cell_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    text = "berlin " * 50_000
    (tmp_path / "long.csv").write_text(f"id,text\na,{text}\n")
    assert list(read_corpus(tmp_path / "long.csv")) == [Document("a", text)]
    assert len(text) < MOST_CHARACTERS


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".jsonl.gz", ".csv.ZST", ".txt"])
def test_a_long_file_is_not_held_in_memory(tmp_path: Path, ending: str) -> None:
    rows = [
        {"id": str(number), "text": " ".join(str((number * 7919 + place * 104_729) % 100_003) for place in range(1200))}
        for number in range(600)
    ]
    format_, packing = (
        (ending[: ending.index(".", 1)], ending[ending.index(".", 1) :]) if "." in ending[1:] else (ending, "")
    )
    content = "".join(row["text"] + "\n" for row in rows).encode() if ending == ".txt" else WRITERS[format_](rows)
    file = tmp_path / f"corpus{ending}"
    file.write_bytes(PACKERS[packing](content))
    list(read_corpus(file))  # what is imported or kept once
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_corpus(file)) == 600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) > 4_000_000
    assert peak < 1_500_000


def test_a_row_group_of_parquet_is_not_held_in_memory(tmp_path: Path) -> None:
    """Many writers put all rows into one."""
    texts = [
        " ".join(str((number * 7919 + place * 104_729) % 100_003) for place in range(1200)) for number in range(4000)
    ]
    written = pyarrow.table({"id": list(map(str, range(4000))), "text": texts})
    parquet.write_table(
        written, tmp_path / "one.parquet", row_group_size=4000, compression="none", use_dictionary=False
    )
    assert (tmp_path / "one.parquet").stat().st_size > 24_000_000
    del written
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        held = [pyarrow.total_allocated_bytes() - before for _ in read_corpus(tmp_path / "one.parquet")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(held) == 4000
    assert max(held) < 12_000_000
    assert peak < 12_000_000


def test_the_total_is_estimated_from_what_was_read(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(json_lines([{"id": str(number), "text": "x" * 1000} for number in range(1000)]))
    reader = read_corpus(file)
    assert reader.total is None
    for _ in range(300):
        next(reader)
    assert reader.total is not None
    assert 900 < reader.total < 1100
    assert sum(1 for _ in reader) == 700
    assert reader.total == 1000


@pytest.mark.parametrize("ending", IN_FOLDER)
def test_a_folder_gives_its_corpus_and_its_queries(tmp_path: Path, ending: str) -> None:
    written = (
        parquet_bytes(ROWS) if ending == ".parquet" else PACKERS[ending[6:].replace("zst", "ZST")](json_lines(ROWS))
    )
    (tmp_path / f"corpus{ending}").write_bytes(written)
    (tmp_path / f"queries{ending}").write_bytes(written)
    assert list(read_corpus(tmp_path)) == EXPECTED
    assert list(read_corpus(tmp_path, name="queries")) == EXPECTED


def test_a_folder_with_several_packed_corpora_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.parquet").write_bytes(parquet_bytes(ROWS))
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"which of corpus.jsonl.gz, corpus.parquet is meant"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(json_lines(ROWS))
    assert list(read_corpus(tmp_path)) == EXPECTED
