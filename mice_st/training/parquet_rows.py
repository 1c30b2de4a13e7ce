"""Training rows in Parquet: what ``mice-st label`` writes, and any file with the same columns, read where it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mice_st.training.row_format import TrainingRow, make_row
from mice_st.training.row_scan import RowScan
from mice_st.training.rows import Rows

PARQUET = ".parquet"

# Rows of a row group that we write.
GROUP_ROWS = 1024


class ParquetRows(Rows):
    """The rows of a Parquet file; see ``make_row`` for its columns. What a row does not have is null.

    Rows are decoded once into an Arrow file in the cache of ``datasets`` and read from there, memory-mapped, in any
    order. Every row is checked once, in the beginning; in memory there are 8 bytes for each.

    Args:
        path: The file. It must not change while it is in use.
        negatives: Of more negatives, the first are taken.

    Raises:
        ImportError: If datasets is not installed; the message names the extra.
        ValueError: If it is no Parquet file, a row is faulty, some rows have scores and others have none, or there are
            none; gives file and row.
    """

    def __init__(self, path: Path, negatives: int) -> None:
        pyarrow = require_pyarrow()
        try:
            pyarrow.parquet.ParquetFile(path).close()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: this is no Parquet file: {error}") from error
        from datasets import Dataset
        from datasets.exceptions import DatasetGenerationError

        try:
            self._data = Dataset.from_parquet(str(path))
        except (DatasetGenerationError, pyarrow.ArrowException) as error:  # pages that a whole footer points to
            raise ValueError(f"{path}: the file cannot be read: {error.__cause__ or error}") from error
        self._path = path
        self._negatives = negatives
        scan = RowScan(negatives)
        for place, item in enumerate(tqdm(self._data, f"Reading {path.name}", unit="row", delay=2)):
            row = _without_nulls(item)
            try:
                scan.add(make_row(row, self._source(place), negatives), json.dumps(row, default=str).encode())
            except ValueError as error:
                raise ValueError(f"{path}, row {place}: {error}") from error
        self.has_scores, self.uneven, self._sizes, self.sha256 = scan.finish(path)

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""
        return make_row(_without_nulls(self._data[place]), self._source(place), self._negatives)

    def sizes(self) -> np.ndarray:
        """``(rows, 2)``, uint32: documents of each row, and estimated tokens of its longest document."""
        return self._sizes

    def _source(self, place: int) -> str:
        return f"{self._path.name}, row {place}"

    def __len__(self) -> int:
        return len(self._data)


def write_parquet(parts: Sequence[Path], path: Path) -> int:
    """Put JSON Lines files together as one Parquet file; a column for each field, null where a row does not have it.

    Args:
        parts: The files; they are read twice, first for their fields.
        path: File to write.

    Returns:
        Number of rows.

    Raises:
        ImportError: If pyarrow is not installed; the message names the extra.
        ValueError: If a field holds values of types that no column holds together; names the field's file.
    """
    pyarrow = require_pyarrow()
    schema = pyarrow.schema([])
    for part in parts:
        try:
            found = _to_table(list(_read(part))).schema
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise ValueError(
                f"{part}: its rows do not fit into one table: {error}; write JSON Lines instead"
            ) from error
    rows = 0
    waiting: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for place, part in enumerate(parts):
            waiting += _read(part)
            if len(waiting) >= GROUP_ROWS or place == len(parts) - 1:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                rows += len(waiting)
                waiting = []
    return rows


def require_pyarrow() -> Any:
    """Import pyarrow with its Parquet, which comes with datasets.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet needs pyarrow: pip install "mice-st[train]"') from error
    return pyarrow


def _to_table(rows: Sequence[dict[str, Any]]) -> Any:
    """A column for each field that any of the rows has; pyarrow by itself takes those of the first row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return require_pyarrow().table({name: [row.get(name) for row in rows] for name in names})


def _read(part: Path) -> Iterator[dict[str, Any]]:
    with part.open("rb") as lines:
        yield from (json.loads(line) for line in lines)


def _without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value is not None}
