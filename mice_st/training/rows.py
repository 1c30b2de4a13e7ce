"""Training rows and where they lie: in memory, or in a JSON Lines file of any size that is read line by line.

Every fault names where it is: the file and the line.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm.auto import tqdm

from mice_st.modeling.st_mice import check_text

# What one token of a text is worth where counting exactly would cost more than training does; English has 4 to 5.
CHARACTERS_OF_A_TOKEN = 4


@dataclass(frozen=True)
class TrainingRow:
    """One query with documents to tell apart.

    Attributes:
        query: The query.
        positive: A relevant document; of a row that a teacher alone has judged, the one that it scores highest.
        negatives: Documents that are not relevant, or less so. Empty for a single pair with its score.
        scores: A teacher's scores of the positive and then of each negative, or None.
        source: Where the row came from, for messages: file and line, or the query's id.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...] | None
    source: str

    @property
    def documents(self) -> tuple[str, ...]:
        """The positive, then the negatives."""
        return (self.positive, *self.negatives)


class Rows(Sequence[TrainingRow]):
    """Rows that are read when they are asked for.

    Attributes:
        sha256: Hash of what trains: a run is resumed on the data that it began with.
        has_scores: Whether the rows carry a teacher's scores; all of them do, or none.
        uneven: Which is the first row with another number of negatives than the first row, as a message; None where all have as many.
    """

    sha256: str
    has_scores: bool
    uneven: str | None

    @abstractmethod
    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""

    def sizes(self) -> np.ndarray:
        """``(rows, 2)``, uint32: documents of each row, and estimated tokens of its longest document."""
        return np.array([_size(row) for row in tqdm(self, "Measuring rows", unit="row", delay=2)], dtype=np.uint32)

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
        self.uneven = next(filter(None, (_uneven(row, rows[0]) for row in rows)), None)

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0."""
        return self._rows[place]

    def __len__(self) -> int:
        return len(self._rows)


class RowFile(Rows):
    """The rows of a JSON Lines file; see ``parse_row`` for the fields.

    Every line is read and checked once, in the beginning. In memory there are 24 bytes for each row: where its line begins, the line's
    number, its number of documents and its longest document. Blank lines count in line numbers but are no rows.

    Args:
        path: The file. It must not change while it is in use.
        negatives: Of more negatives, the first are taken.

    Raises:
        ValueError: If a line is no row, some rows have scores and others have none, or there are none; gives file and line.
    """

    def __init__(self, path: Path, negatives: int) -> None:
        self._path = path
        self._negatives = negatives
        self._file: Any = None  # opened by each process that reads, when it reads
        offsets, sizes = _Growing(np.uint64, 2), _Growing(np.uint32, 2)
        digest = hashlib.sha256(f"{negatives}/".encode())
        first: TrainingRow | None = None
        self.uneven = None
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
                        row = parse_row(line, self._source(number), negatives)
                        first = first or row
                        check_same(row, first)
                    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
                        raise ValueError(f"{path}, line {number}: {error}") from error
                    self.uneven = self.uneven or _uneven(row, first)
                    offsets.append((offset, number))
                    sizes.append(_size(row))
                    digest.update(line)
                offset += len(line)
                progress.update(len(line))
        if first is None:
            raise ValueError(f"{path}: no rows to train on")
        self._offsets = offsets.array
        self._sizes = sizes.array
        self.has_scores = first.scores is not None
        self.sha256 = digest.hexdigest()

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
        return f"{self._path.name}, line {number}"

    def __len__(self) -> int:
        return len(self._offsets)


class _Growing:
    """A numpy array that rows are appended to, without a Python object for each of them."""

    def __init__(self, dtype: Any, width: int) -> None:
        self._room = np.empty((1024, width), dtype=dtype)
        self._used = 0

    def append(self, row: Any) -> None:
        if self._used == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._used] = row
        self._used += 1

    @property
    def array(self) -> np.ndarray:
        return self._room[: self._used]


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
            self.uneven = next(filter(None, (_uneven(row, firsts[0]) for row in firsts)), None)
        digest = hashlib.sha256("/".join(part.sha256 for part in parts).encode())
        for places in chosen:
            digest.update(places.tobytes())
        self.sha256 = digest.hexdigest()

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


def check_same(row: TrainingRow, first: TrainingRow) -> None:
    """Refuse a row with scores among rows without, or the other way round."""
    if (row.scores is None) != (first.scores is None):
        raise ValueError(f"{row.source}: scores: given in one of this row and that of {first.source}, not in both")


def _uneven(row: TrainingRow, first: TrainingRow) -> str | None:
    if len(row.negatives) == len(first.negatives):
        return None
    return f"{row.source}: negatives: {len(row.negatives)}, the first row has {len(first.negatives)}"


def _size(row: TrainingRow) -> tuple[int, int]:
    longest = max(map(len, row.documents))
    return len(row.documents), 2 + math.ceil(longest / CHARACTERS_OF_A_TOKEN)


def fingerprint(rows: Sequence[TrainingRow]) -> str:
    """SHA-256 of the rows: a run is resumed on the data that it began with."""
    if isinstance(rows, Rows) and not isinstance(rows, MemoryRows):
        return rows.sha256
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.query, row.positive, row.negatives, row.scores]).encode())
    return digest.hexdigest()


def parse_row(line: bytes | str, source: str, most: int) -> TrainingRow:
    """Read one line of JSON.

    Three forms: ``query``, ``positive``, ``negatives`` and perhaps ``scores``, one for the positive and one for each negative; ``query``,
    ``documents`` and ``scores``, where the document with the highest score takes the place of the positive; ``query``, ``document`` and
    ``score``, one pair. Other fields are passed over.

    Args:
        line: The line.
        source: Where it lies, for messages.
        most: Of more negatives, the first are taken.

    Raises:
        ValueError: If a field is missing or of the wrong type, a query is empty, a row has no negatives, or the scores are not as many as
            the documents or not finite; names the field, but not yet the line.
    """
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    row = _one_form(row)
    if missing := [name for name in ("query", "positive", "negatives") if name not in row]:
        raise ValueError(f"the field {missing[0]!r} is missing")
    check_query(row["query"], "query")
    check_text(row["positive"], "positive:")
    negatives = row["negatives"]
    if not isinstance(negatives, list) or not (negatives or "pair" in row):
        raise ValueError("negatives: must be a list of at least one text")
    for place, text in enumerate(negatives):
        check_text(text, f"negatives: text {place}")
    scores = row.get("scores")
    if scores is not None:
        check_scores(scores, len(negatives) + 1)
        scores = tuple(float(score) for score in scores[: most + 1])
    return TrainingRow(row["query"], row["positive"], tuple(negatives[:most]), scores, source)


def _one_form(row: dict[str, Any]) -> dict[str, Any]:
    """The fields ``query``, ``positive``, ``negatives``, ``scores``, whichever form the line has."""
    if "document" in row and "score" in row:
        return {**row, "positive": row["document"], "negatives": [], "scores": [row["score"]], "pair": True}
    if "score" in row or "labels" in row:
        raise ValueError('a field "score" or "labels"; a teacher\'s scores are called "scores"')
    if "documents" not in row:
        return row
    documents: Any = row["documents"]
    scores: Any = row.get("scores")
    if not isinstance(documents, list) or not documents:
        raise ValueError("documents: must be a list of at least one text")
    if scores is None:
        raise ValueError("scores: documents that nobody has judged need a teacher's scores (mice-st label)")
    check_scores(scores, len(documents))
    best = max(range(len(scores)), key=lambda place: scores[place])
    order = [best, *(place for place in range(len(documents)) if place != best)]
    documents, scores = [documents[place] for place in order], [scores[place] for place in order]
    return {**row, "positive": documents[0], "negatives": documents[1:], "scores": scores, "pair": True}


def check_scores(scores: Any, expected: int) -> None:
    """Refuse what is not one finite number for each document."""
    if not isinstance(scores, list) or len(scores) != expected:
        raise ValueError(
            f"scores: expected {expected} numbers, one for the positive and one for each negative, got "
            + (str(len(scores)) if isinstance(scores, list) else type(scores).__name__)
        )
    for place, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"scores: number {place} is {score!r}")


def check_query(query: Any, name: str) -> None:
    """Refuse a query that is no text, or an empty one."""
    check_text(query, f"{name}:")
    if not query.strip():
        raise ValueError(f"{name}: the text of the query is empty")
