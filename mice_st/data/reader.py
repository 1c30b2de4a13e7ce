"""The one reader of files of documents, which every command uses.

A bad row is reported the same way whatever the file: a ``ValueError`` that names the file and the line or row. Files are streamed; in memory
are the ids, the current row, and the whole of a JSON list.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, Literal

from .documents import Columns, Document, Entry
from .formats import (
    WHAT_IS_READ,
    FileFormat,
    Row,
    UnreadableError,
    file_format,
    find_in_folder,
    json_line_rows,
    json_rows,
    numbered_lines,
    text_rows,
    unpacked_lines,
)
from .tables import CheckColumns, count_parquet_rows, csv_rows, parquet_rows, require_pyarrow

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


def read_corpus(
    path: str | Path,
    on_error: OnError = "raise",
    *,
    id_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    name: str = "corpus",
) -> CorpusReader:
    """Stream the documents of a file.

    The name of the file says what is in it, in any letter case: JSON Lines (``.jsonl``, ``.ndjson``, ``.json``) with ``_id`` or ``id``,
    ``text`` and perhaps ``title`` and an object ``metadata`` in each line; a list of such objects (``.json``, where its first character is
    ``[``); CSV and TSV with a header and Parquet, with the same columns, whose other columns are metadata; one text per line (``.txt``; the id
    is the line's number, from 0); all but Parquet also packed (``.gz``, ``.zst``). A folder is read as BEIR's: its ``corpus.jsonl``, or the
    same as ``.jsonl.gz``, ``.jsonl.zst`` or ``.parquet``. ``-`` is standard input: JSON Lines when its first line that is not blank starts
    with ``{``, one text per line otherwise. Blank lines are no documents, but they are counted in the line numbers.

    Args:
        path: Folder, file or ``-``.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out and logs one warning at the end, with their
            number and the first of them. Where a file is damaged or cut off, or lacks a column, both stop.
        id_column: Field of the id, a string or an integer; None takes ``_id``, or ``id`` where there is no ``_id``.
        text_columns: Fields whose texts are joined with a space, empty ones left out; None takes ``title``, if there is one, and ``text``.
        name: Of the file in a folder, without its ending: ``"corpus"`` or ``"queries"``.

    Returns:
        An iterator over the documents in the order of the file. A missing file, or one of a kind that is not read, is reported by the call
        itself, a bad row when the iterator reaches it.

    Raises:
        FileNotFoundError: If there is no such file, or none in the folder.
        MissingPackageError: If the package that reads the file is not installed; an ImportError and a ValueError, names the extra.
        ValueError: If ``on_error`` is neither value, files of this name are not read, or columns are named of lines that have none; with
            ``"raise"``, for a row that is not UTF-8, no object, without an id that is a string or an integer, without a text that is a
            string, with a title that is no string, with metadata that JSON cannot hold, or with an id seen before; for a damaged file.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
    if isinstance(text_columns, str) or (text_columns is not None and not text_columns):
        raise ValueError(f"text_columns: expected a list of names, got {text_columns!r}")
    columns = Columns(id_column, None if text_columns is None else tuple(text_columns))
    if str(path) == "-":
        return CorpusReader("-", None, None, columns, on_error)
    file = Path(path)
    if file.is_dir():
        file = find_in_folder(file, name)
    if not file.exists():
        raise FileNotFoundError(f"no {name} at {file}; what is read: {WHAT_IS_READ}, or - for standard input")
    format_ = file_format(file)
    if format_.kind == "parquet":
        require_pyarrow()
    if format_.kind == "text" and columns != Columns():
        raise ValueError(f"{file}: plain lines have no columns; id_column and text_columns are for JSON and tables")
    return CorpusReader(str(path), file, format_, columns, on_error)


class CorpusReader(Iterator[Document]):
    """The documents of a file, one after the other; what ``read_corpus`` returns.

    Attributes:
        path: What was asked for.
        skipped: Bad rows that were left out so far.
    """

    def __init__(
        self, path: str, file: Path | None, format_: FileFormat | None, columns: Columns, on_error: OnError
    ) -> None:
        self.path = path
        self.skipped = 0
        self._file = file
        self._source = "<stdin>" if file is None else str(file)
        self._format = format_
        self._columns = columns
        self._on_error = on_error
        self._unit = [format_.unit if format_ else "line"]
        self._read = 0  # rows, bad ones too
        self._stream: IO[bytes] | None = None
        self._entries = self._checked()

    def __next__(self) -> Document:
        return next(self._entries).document

    def entries(self) -> Iterator[Entry]:
        """The documents that are left, their titles apart."""
        return self._entries

    @property
    def total(self) -> int | None:
        """Rows of the file: exact of Parquet, otherwise as many as the bytes read so far make likely; None where nothing is known."""
        if self._format is not None and self._format.kind == "parquet" and self._file is not None:
            return count_parquet_rows(self._file)
        size = 0 if self._file is None else self._file.stat().st_size
        if self._stream is None or not size:  # a pipe has no size
            return None
        position = size if self._stream.closed else self._stream.tell()
        return round(self._read * size / position) if position else None

    def _checked(self) -> Iterator[Entry]:
        seen: dict[str, int] = {}
        first_error = ""
        kind = self._format.kind if self._format else ""
        is_table, is_text = kind in ("csv", "tsv", "parquet"), kind == "text"
        for number, row in self._located_rows():
            self._read += 1
            try:
                if isinstance(row, ValueError):
                    raise row
                entry = self._columns.entry(row, is_table)
                if entry.id in seen:
                    raise ValueError(f"the id {entry.id!r} is already in {self._unit[0]} {seen[entry.id]}")
            except ValueError as error:
                message = f"{self._source}, {self._unit[0]} {number}: {error}"
                if self._on_error == "raise":
                    raise ValueError(message) from error
                self.skipped += 1
                first_error = first_error or message
                continue
            if not is_text:  # whose ids are their lines' numbers
                seen[entry.id] = number
            yield entry
        if self.skipped:
            logger.warning("%d bad %ss were skipped; the first: %s", self.skipped, self._unit[0], first_error)

    def _located_rows(self) -> Iterator[Row]:
        """Rows; what ends the file says where."""
        number: int | None = None
        try:
            for number, row in self._rows():
                yield number, row
        except UnreadableError as error:
            after = "" if number is None else f", after {self._unit[0]} {number}"
            where = after if error.where is None else f", {error.where}"
            raise ValueError(f"{self._source}{where}: {error}") from error

    def _rows(self) -> Iterator[Row]:
        """Opens the file only when the first document is asked for, and closes it with the last."""
        with ExitStack() as stack:
            if self._file is None:
                numbered = numbered_lines(iter(sys.stdin.buffer))
                first = next(numbered, None)
                lines = chain([first] if first else [], numbered)
                is_json = first is not None and first[1].lstrip().startswith(b"{")
                yield from json_line_rows(lines) if is_json else text_rows(lines)
                return
            assert self._format is not None  # as of every file
            self._stream = stack.enter_context(self._file.open("rb"))
            yield from read_rows(self._file, self._format, self._stream, self._columns.check, self._unit)


def read_rows(
    file: Path, format_: FileFormat, stream: IO[bytes], check: CheckColumns, unit: list[str]
) -> Iterator[Row]:
    """The rows of any file that is read, as ``formats.py`` describes them.

    Args:
        file: The file.
        format_: As its name says.
        stream: The file, opened; its position says how much of it was read. Parquet is read beside it.
        check: Raises a ValueError if a table lacks columns.
        unit: Gets what rows of a ``.json`` file are counted by.

    Raises:
        UnreadableError: If the rest of the file cannot be read.
    """
    if format_.kind == "parquet":
        yield from parquet_rows(file, check)
        return
    raw = unpacked_lines(stream, format_.packing)
    if format_.kind in ("csv", "tsv"):
        yield from csv_rows(raw, "," if format_.kind == "csv" else "\t", check)
    elif format_.kind == "json":
        yield from json_rows(raw, unit)
    elif format_.kind == "json_lines":
        yield from json_line_rows(numbered_lines(raw))
    else:
        yield from text_rows(numbered_lines(raw))
