"""Files of training rows by their names: JSON Lines, CSV, TSV, Parquet, compressed or not."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mice_st.data.formats import KINDS, FileFormat, UnreadableError, file_format, numbered_lines
from mice_st.data.reader import read_rows
from mice_st.training.parquet_rows import ParquetRows
from mice_st.training.row_format import make_row
from mice_st.training.row_scan import GrowingArray, RowScan
from mice_st.training.rows import RowFile, Rows


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
    format_ = _format_of(path)
    if format_.kind == "parquet":
        return ParquetRows(path, negatives)
    is_table, is_array = format_.kind in ("csv", "tsv"), format_.kind == "json" and not format_.packing
    if is_table or format_.packing or (is_array and _is_array(path)):
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


def _format_of(path: Path) -> FileFormat:
    """The format that a file's name stands for; JSON Lines for a name that stands for none, and for plain lines."""
    if {suffix.lower() for suffix in path.suffixes[-2:]} & KINDS.keys():
        format_ = file_format(path)
        return format_ if format_.kind != "text" else FileFormat("json_lines", format_.packing)
    return FileFormat("json_lines")


def _is_array(path: Path) -> bool:
    with path.open("rb") as content:
        for _, line in numbered_lines(iter(content)):
            return line.lstrip().startswith(b"[")
    return False


def _read(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers from 1 (of an array: numbers of its rows), and what they hold."""
    format_ = _format_of(path)
    unit = ["line"]
    with path.open("rb") as stream:
        try:
            for number, row in read_rows(path, format_, stream, lambda names: None, unit):
                place = number + 1 if unit[0] == "item" else number
                if isinstance(row, ValueError):
                    raise ValueError(f"{path}, line {place}: {row}") from row
                if format_.kind in ("csv", "tsv"):  # an empty cell is a field that is not there
                    row = {name: cell for name, cell in row.items() if cell}
                    if "score" in row:
                        row["score"] = _number(row["score"], f"{path}, line {place}")
                yield place, row
        except UnreadableError as error:
            where = "" if error.where is None else f", {error.where}"
            raise ValueError(f"{path}{where}: {error}") from error


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(f"{where}: score: must be a number, not {cell!r}") from error
