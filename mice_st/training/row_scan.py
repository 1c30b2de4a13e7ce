"""One pass over training rows: their number of documents, their length, their hash."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from mice_st.training.row_format import TrainingRow, check_same

# What one token of a text is worth where counting exactly would cost more than training does; English has 4 to 5.
CHARACTERS_OF_A_TOKEN = 4


class RowScan:
    """Facts of the rows of a file from one pass, which refuses faulty ones.

    Args:
        negatives: Of more negatives, the first are taken: other rows, another hash.
    """

    def __init__(self, negatives: int) -> None:
        self._first: TrainingRow | None = None
        self._uneven: str | None = None
        self._sizes = GrowingArray(np.uint32, 2)
        self._digest = hashlib.sha256(f"{negatives}/".encode())

    def add(self, row: TrainingRow, content: bytes) -> None:
        """The next row, and what stands for it in the hash.

        Raises:
            ValueError: If it has scores and the first row has none, or the other way round.
        """
        self._first = self._first or row
        check_same(row, self._first)
        self._uneven = self._uneven or uneven_with(row, self._first)
        self._sizes.append(measure(row))
        self._digest.update(content)

    def finish(self, path: Path) -> tuple[bool, str | None, np.ndarray, str]:
        """``has_scores``, ``uneven``, ``sizes()`` and ``sha256`` of ``Rows``.

        Raises:
            ValueError: If there were no rows; names the file.
        """
        if self._first is None:
            raise ValueError(f"{path}: no rows to train on")
        return self._first.scores is not None, self._uneven, self._sizes.array, self._digest.hexdigest()


class GrowingArray:
    """A numpy array that rows are appended to, without a Python object for each of them."""

    def __init__(self, dtype: Any, width: int) -> None:
        self._room = np.empty((1024, width), dtype=dtype)
        self._used = 0

    def append(self, row: Any) -> None:
        """One more row."""
        if self._used == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._used] = row
        self._used += 1

    @property
    def array(self) -> np.ndarray:
        """The rows so far, a view."""
        return self._room[: self._used]


def uneven_with(row: TrainingRow, first: TrainingRow) -> str | None:
    """That a row has another number of negatives than the first one, as a message; None where it has as many."""
    if len(row.negatives) == len(first.negatives):
        return None
    return f"{row.source}: negatives: {len(row.negatives)}, the first row has {len(first.negatives)}"


def measure(row: TrainingRow) -> tuple[int, int]:
    """Documents of a row, and estimated tokens of its longest document."""
    longest = max(map(len, row.documents))
    return len(row.documents), 2 + math.ceil(longest / CHARACTERS_OF_A_TOKEN)
