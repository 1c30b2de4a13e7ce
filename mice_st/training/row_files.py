"""Files of training rows by their names: JSON Lines, CSV, TSV, Parquet, compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm.auto import tqdm

from mice_st.training.parquet_rows import PARQUET, ParquetRows
from mice_st.training.row_format import make_row
from mice_st.training.row_scan import GrowingArray, RowScan
from mice_st.training.rows import RowFile, Rows

COMPRESSED = (".gz", ".zst")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def open_rows(path: Path, negatives: int) -> Rows:
    """The rows of a file; see ``make_row`` for the fields.

    ``.parquet`` is Parquet, ``.csv`` and ``.tsv`` are tables with a header, ``.json`` is one array of rows where it begins with ``[``, and
    anything else is JSON Lines. All but Parquet may be compressed: ``.gz``, ``.zst``. Letter case does not count.

    Args:
        path: The file. It must not change while it is in use.
        negatives: Of more negatives, the first are taken.

    Raises:
        ImportError: If Parquet or ``.zst`` is read and its package is not installed; the message names the extra.
        ValueError: If the file is damaged, a row is faulty, some rows have scores and others have none, or there are none; gives file and
            line.
    """
    suffix = _format_of(path)
    if suffix == PARQUET:
        return ParquetRows(path, negatives)
    if suffix in DELIMITERS or path.suffix.lower() in COMPRESSED or (suffix == ".json" and _is_array(path)):
        return ConvertedRows(path, negatives)
    return RowFile(path, negatives)


class ConvertedRows(RowFile):
    """The rows of a file that cannot be read row by row where it lies: written once, as JSON Lines, to a temporary file.

    Args:
        path: As for ``open_rows``, which says what is raised.
        negatives: As for ``open_rows``.
    """

    def __init__(self, path: Path, negatives: int) -> None:
        self._name = path.name
        self._negatives = negatives
        self._file: Any = None
        handle, name = tempfile.mkstemp(suffix=".jsonl", prefix="mice-st-rows-")
        self._path = Path(name)
        weakref.finalize(self, _remove, name, os.getpid())
        offsets = GrowingArray(np.uint64, 2)
        scan = RowScan(negatives)
        with os.fdopen(handle, "wb") as lines:
            for number, row in tqdm(_read(path), f"Reading {path.name}", unit="row", delay=2, leave=False):
                line = json.dumps(row).encode() + b"\n"
                try:
                    scan.add(make_row(row, self._source(number), negatives), line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
                offsets.append((lines.tell(), number))
                lines.write(line)
        self._offsets = offsets.array
        self.has_scores, self.uneven, self._sizes, self.sha256 = scan.finish(path)


def _remove(name: str, process: int) -> None:
    if os.getpid() == process:  # a forked worker must not take the file away from the process that made it
        Path(name).unlink(missing_ok=True)


def _format_of(path: Path) -> str:
    """The suffix that says the format, in lower case."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def _is_array(path: Path) -> bool:
    with path.open("rb") as content:
        for line in content:
            if start := line.removeprefix(b"\xef\xbb\xbf").strip():
                return start.startswith(b"[")
    return False


def _read(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers from 1 (of an array: numbers of its rows), and what they hold."""
    suffix = _format_of(path)
    with _open(path) as content:
        try:
            if suffix in DELIMITERS:
                yield from _read_table(path, content, DELIMITERS[suffix])
            else:
                yield from _read_json(path, content, suffix == ".json")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: the file is damaged: {error}") from error


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != ".zst":
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as content:
            yield content  # type: ignore[misc]
        return
    try:
        import zstandard
    except ImportError as error:
        raise ImportError('.zst needs zstandard: pip install "mice-st[files]"') from error
    # Whole, to a temporary file: a stream reader takes a file that was cut off for one that ends there.
    with path.open("rb") as compressed, tempfile.TemporaryFile() as content:
        frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
        try:
            for chunk in iter(lambda: compressed.read(2**20), b""):
                while chunk:
                    content.write(frame.decompress(chunk))
                    begun, chunk = not frame.eof, frame.unused_data
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
        except zstandard.ZstdError as error:
            raise ValueError(f"{path}: the file is damaged: {error}") from error
        if begun:
            raise ValueError(f"{path}: the file is damaged: it ends within a frame")
        content.seek(0)
        yield content


def _read_json(path: Path, content: IO[bytes], may_be_array: bool) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content, start=1):
        if not line.strip():
            continue
        if may_be_array and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            try:
                yield from enumerate(json.loads(line + content.read()), start=1)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: the array cannot be read: {error}") from error
            return
        may_be_array = False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise ValueError(f"{path}, line {number}: {error}") from error
        yield number, row


def _read_table(path: Path, content: IO[bytes], delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table with a header. An empty cell is a field that is not there; ``score`` is a number."""
    limit = csv.field_size_limit(
        min(sys.maxsize, 2**31 - 1)
    )  # a text may be longer than the 131,072 characters of the default
    lines = csv.reader(io.TextIOWrapper(content, encoding="utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        header: list[str] = []
        while True:
            number = lines.line_num + 1
            cells = next(lines, None)
            if cells is None:
                return
            if not cells:
                continue
            if not header:
                header = cells
                if twice := [name for name in header if header.count(name) > 1 or not name]:
                    raise ValueError(f"the column {twice[0]!r} has no name, or one that is there twice")
                continue
            if len(cells) != len(header):
                raise ValueError(f"expected {len(header)} fields as in the header, found {len(cells)}")
            row: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            if "score" in row:
                row["score"] = _number(row["score"])
            yield number, row
    except (csv.Error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path}, line {number}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(f"score: must be a number, not {cell!r}") from error
