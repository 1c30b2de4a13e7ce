"""Where training rows lie: in memory, or in a JSON Lines file of any size that is read line by line, alone or mixed."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm.auto import tqdm

from mice_st.training.row_format import TrainingRow, check_same, parse_row
from mice_st.training.row_scan import GrowingArray, RowScan, measure, uneven_with


class Rows(Sequence[TrainingRow]):
    """Rows that are read when they are asked for.

    Attributes:
        sha256: Hash of what trains: a run is resumed on the data that it began with.
        has_scores: Whether the rows carry a teacher's scores; all of them do, or none.
        uneven: Which is the first row with another number of negatives than the first row, as a message; None where all
            have as many.
    """

    sha256: str
    has_scores: bool
    uneven: str | None

    @abstractmethod
    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""

    def sizes(self) -> np.ndarray:
        """``(rows, 2)``, uint32: documents of each row, and estimated tokens of its longest document."""
        return np.array([measure(row) for row in tqdm(self, "Measuring rows", unit="row", delay=2)], dtype=np.uint32)

    @overload
    def __getitem__(self, place: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[TrainingRow]: ...
    def __getitem__(self, place: int | slice) -> TrainingRow | list[TrainingRow]:
        if isinstance(place, slice):
            return [self.read(at) for at in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return self.read(place % len(self))

    def __iter__(self) -> Iterator[TrainingRow]:
        return (self.read(place) for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(lambda a, b: a == b, self, other))

    __hash__ = None  # type: ignore[assignment]


class MemoryRows(Rows):
    """Rows in memory.

    Args:
        rows: At least one.

    Raises:
        ValueError: If some rows have scores and others have none; names one of each.
    """

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self._rows = rows
        self.sha256 = fingerprint(rows)
        self.has_scores = rows[0].scores is not None
        for row in rows:
            check_same(row, rows[0])
        self.uneven = next(filter(None, (uneven_with(row, rows[0]) for row in rows)), None)

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""
        return self._rows[place]

    def __len__(self) -> int:
        return len(self._rows)


class RowFile(Rows):
    """The rows of a JSON Lines file; see ``parse_row`` for the fields.

    Every line is read and checked once, in the beginning. In memory there are 24 bytes for each row: where its line
    begins, the line's number, its number of documents and its longest document. Blank lines count in line numbers but
    are no rows.

    Args:
        path: The file. It must not change while it is in use.
        negatives: Of more negatives, the first are taken.

    Raises:
        ValueError: If a line is no row, some rows have scores and others have none, or there are none; gives file and
            line.
    """

    def __init__(self, path: Path, negatives: int) -> None:
        self._path = path
        self._name = path.name
        self._negatives = negatives
        self._file: Any = None  # opened by each process that reads, when it reads
        offsets = GrowingArray(np.uint64, 2)
        scan = RowScan(negatives)
        with (
            path.open("rb") as lines,
            tqdm(
                total=path.stat().st_size, desc=f"Reading {path.name}", unit="B", unit_scale=True, delay=2
            ) as progress,
        ):
            offset = 0
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        scan.add(parse_row(line, self._source(number), negatives), line)
                    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
                        raise ValueError(f"{path}, line {number}: {error}") from error
                    offsets.append((offset, number))
                offset += len(line)
                progress.update(len(line))
        self._offsets = offsets.array
        self.has_scores, self.uneven, self._sizes, self.sha256 = scan.finish(path)

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""
        if self._file is None:
            self._file = self._path.open("rb")
        offset, number = self._offsets[place].tolist()
        self._file.seek(offset)
        return parse_row(self._file.readline(), self._source(number), self._negatives)

    def sizes(self) -> np.ndarray:
        """``(rows, 2)``, uint32: documents of each row, and estimated tokens of its longest document."""
        return self._sizes

    def _source(self, number: int) -> str:
        return f"{self._name}, line {number}"

    def __len__(self) -> int:
        return len(self._offsets)


class ChosenRows(Rows):
    """Some rows of one or several sources, in a given order, repeated where it repeats.

    Args:
        parts: The sources.
        chosen: For each source, places of its rows.
        names: What a message calls each source.

    Raises:
        ValueError: If some sources carry scores and others do not; names both.
    """

    def __init__(self, parts: Sequence[Rows], chosen: Sequence[np.ndarray], names: Sequence[str]) -> None:
        self._parts = parts
        self._chosen = chosen
        self._names = names
        self._ends = np.cumsum([len(places) for places in chosen])
        self.has_scores = parts[0].has_scores
        for part, name in zip(parts, names, strict=True):
            if part.has_scores != self.has_scores:
                raise ValueError(
                    f"train_data: one of {names[0]} and {name} has scores of a teacher, the other has none"
                )
        self.uneven = next((part.uneven for part in parts if part.uneven is not None), None)
        firsts = [part.read(0) for part in parts]
        if self.uneven is None:
            self.uneven = next(filter(None, (uneven_with(row, firsts[0]) for row in firsts)), None)
        digest = hashlib.sha256("/".join(part.sha256 for part in parts).encode())
        for places in chosen:
            digest.update(places.tobytes())
        self.sha256 = digest.hexdigest()

    def parts(self) -> Iterator[tuple[str, Rows, int]]:
        """Name and rows of each source, and how many of them are chosen."""
        return (
            (name, part, len(places)) for name, part, places in zip(self._names, self._parts, self._chosen, strict=True)
        )

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""
        part = int(np.searchsorted(self._ends, place, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return self._parts[part].read(int(self._chosen[part][place - start]))

    def sizes(self) -> np.ndarray:
        """``(rows, 2)``, uint32: documents of each row, and estimated tokens of its longest document."""
        return np.concatenate([part.sizes()[places] for part, places in zip(self._parts, self._chosen, strict=True)])

    def __len__(self) -> int:
        return int(self._ends[-1])


def fingerprint(rows: Sequence[TrainingRow]) -> str:
    """SHA-256 of the rows: a run is resumed on the data that it began with."""
    if isinstance(rows, Rows) and not isinstance(rows, MemoryRows):
        return rows.sha256
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.query, row.positive, row.negatives, row.scores]).encode())
    return digest.hexdigest()
