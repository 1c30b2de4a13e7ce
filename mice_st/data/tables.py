"""Tables of documents: the rows of CSV, TSV and Parquet, a dictionary of columns each.

A column without a name, and the one that pandas writes its index to, are left out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .formats import BYTE_ORDER_MARK, MissingPackageError, Row, UnreadableError

CheckColumns = Callable[[Sequence[str]], None]

MOST_CHARACTERS = 100_000_000  # of a cell; a quote that is never closed ends there
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are no UTF-8
PANDAS_INDEX = "__index_level_"
BATCH_ROWS = 128  # rows of Parquet that are decoded at a time
BUFFER = 2**20  # bytes of a column that are read at a time; without it pyarrow reads those of a whole row group


def csv_rows(lines: Iterator[bytes], delimiter: str, check: CheckColumns) -> Iterator[Row]:
    """The rows of a file with a header, by the line that each begins in, from 1.

    Cells may be quoted, and then hold line breaks. A row with too few or too many cells, stray quotes or bytes that are no UTF-8 is bad by
    itself; the next begins with the next line.

    Args:
        lines: Of the file.
        delimiter: Between cells.
        check: Raises a ValueError if columns are missing.

    Raises:
        UnreadableError: If the header is missing or bad.
    """
    reader = csv.reader(_decoded(lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = _next_row(reader)
            if cells and NOT_UTF8.search("".join(cells)):
                raise ValueError("not UTF-8")
            if cells and header is not None and len(cells) != len(header):
                raise ValueError(f"expected {len(header)} cells, as the header has, found {len(cells)}")
        except StopIteration:
            break
        except (csv.Error, ValueError) as error:
            if header is None:
                raise UnreadableError(f"the header is bad: {error}", f"line {number}") from error
            yield number, ValueError(str(error))
            continue
        if not cells:  # a blank line
            continue
        if header is None:
            header = cells
            _check_header(header, check, f"line {number}")
        else:
            yield number, {name: cell for name, cell in zip(header, cells, strict=True) if name}
    if header is None:
        raise UnreadableError("there is no header", "line 1")


def _next_row(reader: Iterator[list[str]]) -> list[str]:
    """The next row; its cells may be longer than Python's limit of 131,072 characters, which is one for the whole process."""
    before = csv.field_size_limit(MOST_CHARACTERS)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(before)


def _decoded(lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield (line if number else line.removeprefix(BYTE_ORDER_MARK)).decode("utf-8", "surrogateescape")


def _check_header(names: Sequence[str], check: CheckColumns, where: str) -> None:
    named = [name for name in names if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UnreadableError(f"the column {twice[0]!r} is there twice", where)
    try:
        check(named)
    except ValueError as error:
        raise UnreadableError(str(error), where) from error


def parquet_rows(file: Path, check: CheckColumns) -> Iterator[Row]:
    """The rows of a Parquet file by their place, from 0; ``BATCH_ROWS`` in memory at a time.

    Args:
        file: The file.
        check: As for ``csv_rows``.

    Raises:
        MissingPackageError: If pyarrow is not installed; names the extra.
        UnreadableError: If the file is damaged.
    """
    place = 0
    with _OpenParquet(file) as table:
        _check_header(table.names, check, "the schema")
        for batch in table.batches():
            for row in batch:
                yield place, row
                place += 1


def count_parquet_rows(file: Path) -> int:
    """Rows of a Parquet file, as its footer has them.

    Raises:
        MissingPackageError: If pyarrow is not installed.
        UnreadableError: If the file is damaged.
    """
    with _OpenParquet(file) as table:
        return table.count


def require_pyarrow() -> Any:
    """Import pyarrow with its Parquet.

    Raises:
        MissingPackageError: If it is not installed; names the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError('Parquet needs pyarrow: pip install "mice-st[files]"') from error
    return pyarrow


class _OpenParquet:
    """A Parquet file, with one error for whatever pyarrow raises about one that is damaged."""

    def __init__(self, file: Path) -> None:
        pyarrow = require_pyarrow()
        # OSError and the rest: what pyarrow makes of lengths and offsets that no whole file has.
        self._errors = (pyarrow.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)
        self._stream = file.open("rb")  # its own errors name the file
        try:
            self._file = pyarrow.parquet.ParquetFile(self._stream, buffer_size=BUFFER, pre_buffer=False)
            self.count: int = self._file.metadata.num_rows
            self.names: list[str] = list(self._file.schema_arrow.names)
        except self._errors as error:
            self._stream.close()
            raise UnreadableError(f"this is no whole Parquet file: {error}", "the schema") from error
        self.names = [name for name in self.names if not name.startswith(PANDAS_INDEX)]

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """Rows, some at a time."""
        batches = self._file.iter_batches(BATCH_ROWS, columns=self.names or None, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                rows = None if batch is None else batch.to_pylist()
            except self._errors as error:
                raise UnreadableError(f"the Parquet file is damaged: {error}") from error
            if rows is None:
                return
            yield rows

    def __enter__(self) -> _OpenParquet:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close(force=True)
        self._stream.close()
