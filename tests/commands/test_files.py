"""Every command that reads documents reads the same files: rank, encode, and mine without queries."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mice_st.commands import main as cli
from mice_st.states.engines import open_store
from mice_st.training.mined_rows import MineJob, mine

QUERY = "how many people live in berlin"
TABLE = "docid,head,body,year\nmuseum,the museum,is on the river,1999\nberlin,berlin,has many people,2001\n"
ROWS = [
    {"_id": "museum", "title": "the museum", "text": "is on the river"},
    {"_id": "berlin", "title": "berlin", "text": "has many people"},
]
TEXTS = {"museum": "the museum is on the river", "berlin": "berlin has many people"}


def lines() -> str:
    return "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    """Files of the same documents, with the flags that they need."""
    columns = ["--id-column", "docid", "--text-columns", "head", "body"]
    contents: dict[str, tuple[bytes, list[str]]] = {
        "c.jsonl": (lines().encode(), []),
        "c.json": (lines().encode(), []),
        "list.json": (json.dumps(ROWS, indent=2).encode(), []),
        "c.ndjson": (lines().encode(), []),
        "C.JSONL": (lines().encode(), []),
        "c.jsonl.gz": (gzip.compress(lines().encode()), []),
        "c.csv": (TABLE.encode(), columns),
        "c.tsv": (TABLE.replace(",", "\t").encode(), columns),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    return {str(tmp_path / name): flags for name, (_, flags) in contents.items()}


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(list(arguments)) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_rank_reads_every_file_alike(
    files: dict[str, list[str]], mice_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["rank", "--model", str(mice_folder), "--query", QUERY, "--json"]
    for file, flags in files.items():
        found = [json.loads(line) for line in run(capsys, *common, "--documents", file, *flags).splitlines()]
        assert {entry["id"]: entry["text"] for entry in found} == TEXTS, file


def test_encode_reads_every_file_alike(
    files: dict[str, list[str]], mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store.sqlite")
    for place, (file, flags) in enumerate(files.items()):
        said = run(capsys, "encode", "--model", str(mice_folder), "--documents", file, "--store", store, *flags)
        assert ("2 added" if place == 0 else "0 added, 0 changed, 2 unchanged") in said, file
    with open_store(store, None, read_only=True) as opened:
        assert dict(opened.texts()) == TEXTS


@pytest.mark.parametrize("command", ["rank", "encode"])
def test_a_bad_file_is_one_line(
    command: str, mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text(TABLE + "x,y\n")
    flags = {"rank": ["--query", QUERY], "encode": ["--store", str(tmp_path / "store.sqlite")]}[command]
    arguments = [command, "--model", str(mice_folder), *flags, "--documents"]
    assert 'line 1: there is no column "_id"' in run(capsys, *arguments, str(tmp_path / "bad.csv"), status=2)
    columns = ["--id-column", "docid", "--text-columns", "body"]
    said = run(capsys, *arguments, str(tmp_path / "bad.csv"), *columns, status=2)
    assert "line 4: expected 4 cells" in said
    assert said.count("\n") == 1


def test_columns_go_with_documents_alone(mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "rank", QUERY, "--store", str(tmp_path / "s"), "--id-column", "docid", status=2)
    assert "id_column and text_columns: need --documents" in said


def test_bad_rows_are_counted_once(mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(lines() + "\nnot json\n")
    said = run(
        capsys,
        *("encode", "--model", str(mice_folder), "--documents", str(tmp_path / "bad.json")),
        *("--store", str(tmp_path / "store.sqlite"), "--on-error", "skip"),
    )
    assert "2 added" in said
    assert "1 bad lines skipped" in said


def test_standard_input_is_not_encoded(mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(mice_folder), "--documents", "-", "--store", str(tmp_path / "store.sqlite")]
    assert "standard input cannot be read again" in run(capsys, "encode", *arguments, status=2)


def test_queries_are_made_of_a_packed_corpus(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"_id": str(number), "title": f"the {name} of the city", "text": f"many people see {name} " * 8}
        for number, name in enumerate(("river", "bridge", "museum"))
    ]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    output = tmp_path / "rows.jsonl"
    pytest.importorskip("bm25s")
    assert mine(MineJob([str(folder)], str(output), negatives=1, query_source="pseudo")) == 3
    assert sorted(json.loads(line)["query"] for line in output.read_text().splitlines()) == sorted(
        row["title"] for row in rows
    )
