"""Damages files of documents at random and reads them: each gives documents, or one error that names it.

``python scripts/fuzz_files.py --count 20000`` prints how many gave what, and fails with the number of the first file that gave anything else,
or took more than ten seconds; ``--first`` begins there. The same number is always the same file.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from mice_st.data.reader import OnError, read_corpus

ENDINGS = (".jsonl", ".ndjson", ".json", ".list.json", ".csv", ".tsv", ".txt", ".parquet")
PACKINGS = ("", "", ".gz", ".zst")
WORDS = ("berlin", "river", "a", 'quo"te', "new\nline", "tab\t", "é", "€", "𝄞", "", "\\", ",", "NaN", "[SEP]", "\x00")
SECONDS = 10


def made_rows(random: Random) -> list[dict[str, Any]]:
    """Some documents, most of them good."""
    rows: list[dict[str, Any]] = []
    for number in range(random.randint(0, 12)):
        text = " ".join(random.choices(WORDS, k=random.randint(0, 8)))
        rows.append({"_id": f"d{number}", "title": random.choice(("", "title")), "text": text, "n": str(number)})
    return rows


def written(rows: list[dict[str, Any]], ending: str, random: Random) -> bytes:
    """A whole file of these documents."""
    import pyarrow
    import pyarrow.parquet

    if ending in (".csv", ".tsv"):
        table = io.StringIO(newline="")
        writer = csv.writer(table, delimiter="," if ending == ".csv" else "\t")
        writer.writerow(["_id", "title", "text", "n"])
        writer.writerows(row.values() for row in rows)
        return table.getvalue().encode()
    if ending == ".txt":
        return "\n".join(row["text"] for row in rows).encode()
    if ending == ".list.json":
        return json.dumps(rows, indent=random.choice((None, 1))).encode()
    if ending == ".parquet":
        content = io.BytesIO()
        fields = [(name, pyarrow.string()) for name in ("_id", "title", "text", "n")]
        packing = random.choice(("none", "snappy", "zstd"))
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows, pyarrow.schema(fields)),
            content,
            row_group_size=4,
            compression=packing,
            use_dictionary=random.random() < 0.5,
        )
        return content.getvalue()
    return "\n".join(json.dumps(row) for row in rows).encode()


def packed(content: bytes, packing: str) -> bytes:
    """The content as ``.gz`` or ``.zst``, or as it is."""
    import zstandard

    if packing == ".gz":
        return gzip.compress(content, mtime=0)
    return zstandard.compress(content) if packing == ".zst" else content


def damaged(content: bytes, random: Random) -> bytes:
    """One to three of: a bit flipped, bytes left out, doubled or put in, the end cut off."""
    for _ in range(random.randint(1, 3)):
        if not content:
            return content
        at = random.randrange(len(content))
        end = min(len(content), at + random.randint(1, 40))
        kind = random.randrange(5)
        if kind == 0:
            content = content[:at] + bytes([content[at] ^ (1 << random.randrange(8))]) + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + content[end:]
        elif kind == 2:
            content = content[:end] + content[at:]
        elif kind == 3:
            content = (
                content[:at] + random.choice((b'"', b"\n", b"\xff", b"\x00", b"[" * 3000, b"\r", b"}")) + content[at:]
            )
        else:
            content = content[:at]
    return content


def make_file(number: int, folder: Path) -> tuple[Path, OnError]:
    """The file of a number, and what is done about its bad rows: damaged before or after packing, or under another format's name."""
    random = Random(number)
    ending, packing = random.choice(ENDINGS), random.choice(PACKINGS)
    packing = "" if ending == ".parquet" else packing
    content = written(made_rows(random), ending, random)
    if (chance := random.random()) < 0.45:
        content = packed(damaged(content, random), packing)
    elif chance < 0.85:
        content = damaged(packed(content, packing), random)
    else:
        content = packed(content, packing)
    name = f"{number}{ending}{packing}"
    if random.random() < 0.15:
        name = f"{number}{random.choice(ENDINGS)}{random.choice(PACKINGS)}"
    (folder / name).write_bytes(content)
    return folder / name, random.choice(("raise", "skip"))


def outcome(number: int, folder: Path) -> str:
    """What reading the file of a number gives: ``"documents"`` or ``"error"``.

    Raises:
        AssertionError: If an error does not name the file, or it takes too long.
        Exception: Whatever else reading raises.
    """
    file, on_error = make_file(number, folder)
    try:
        with _at_most(SECONDS):
            for document in read_corpus(file, on_error):
                if not (isinstance(document.id, str) and document.id and isinstance(document.text, str)):
                    raise AssertionError(f"this is no document: {document!r:.300}")
    except (ValueError, FileNotFoundError) as error:
        if str(file) not in str(error):
            raise AssertionError(f"the error does not name the file: {error!r:.300}") from error
        return "error"
    finally:
        file.unlink()
    return "documents"


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise an AssertionError in what takes longer, where the system has alarms."""

    def stop(*_: object) -> None:
        raise AssertionError(f"reading took more than {seconds} seconds")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(first: int, count: int) -> Counter[str]:
    """Outcomes of some files.

    Raises:
        RuntimeError: For the first file that gives neither documents nor an error that names it; gives its number.
    """
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            try:
                found[outcome(number, Path(folder))] += 1
            except Exception as error:
                raise RuntimeError(f"file {number}: {type(error).__name__}: {error}") from error
    return found


def main() -> int:
    """Read the flags and fuzz."""
    import logging

    logging.getLogger("mice_st").setLevel(logging.ERROR)  # bad rows that were skipped are what is asked for
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    found = fuzz(options.first, options.count)
    print(f"{options.count} files: {found['documents']} gave documents, {found['error']} an error that names the file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
