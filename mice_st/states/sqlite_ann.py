"""The approximate index of a SQLite store: what the store says of it, and its file, mapped once for all searches.

An entry ``ann`` in the table ``derived`` says that an index is wanted, and what its file holds. Whoever makes the file of
vectors anew makes the index anew with it, in the same commit; where that cannot be, the entry stays and names no file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .ann import AnnIndex, build_ann, file_crc
from .sqlite_files import write_file
from .sqlite_meta import read_counters
from .vectors import unit_vectors

logger = logging.getLogger(__name__)


class AnnDefinition(NamedTuple):
    """What ``derived`` says of the index.

    Attributes:
        generation: Of the file of vectors that it was made from; 0 where it could not be made.
        slots: How many of its slots the index covers, from the first.
        lists: Number of inverted lists.
        crc: CRC-32 of the file.
    """

    generation: int
    slots: int
    lists: int
    crc: int


WANTED = AnnDefinition(0, 0, 0, 0)  # an index that is wanted, and could not be made


def has_ann(connection: sqlite3.Connection) -> bool:
    """Whether an index is wanted."""
    return connection.execute("SELECT 1 FROM derived WHERE name = 'ann'").fetchone() is not None


def want_ann(writer: sqlite3.Connection) -> None:
    """Have an index made with the next file of vectors."""
    writer.execute("INSERT OR REPLACE INTO derived VALUES ('ann', ?, 0)", (json.dumps(WANTED),))


def ann_definition(connection: sqlite3.Connection, generation: int) -> AnnDefinition | None:
    """The index that belongs to a file of vectors; None where none is wanted.

    Args:
        connection: Reads one commit.
        generation: Of the file of vectors.

    Raises:
        ValueError: If the index does not belong to it, or the entry cannot be read.
    """
    row = connection.execute("SELECT definition, commits FROM derived WHERE name = 'ann'").fetchone()
    if row is None:
        return None
    try:
        definition = AnnDefinition(*map(int, json.loads(row[0])))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the entry of the index is damaged: {row[0]!r}") from error
    if (definition.generation, row[1]) != (
        generation,
        read_counters(connection).commits,
    ):
        raise ValueError("it was not made from the vectors that there are now")
    return definition


def ann_file(path: Path, generation: int) -> Path:
    """The file of the index of the store at ``path``."""
    return Path(f"{path}-ann-{generation}")


def forget_ann(writer: sqlite3.Connection) -> None:
    """Say that the index, where one is wanted, fits the vectors no more."""
    writer.execute("UPDATE derived SET definition = ? WHERE name = 'ann'", (json.dumps(WANTED),))


def make_ann(writer: sqlite3.Connection, path: Path, generation: int, slots: np.ndarray) -> None:
    """Make the index of a new file of vectors; without the extra ``ann``, it stays wanted.

    Args:
        writer: Inside a transaction.
        path: The database.
        generation: Of the file of vectors.
        slots: What that holds, at least one.

    Raises:
        StoreFullError: If the file cannot be written.
        StoreCorruptError: If a vector has a value that is no number.
    """
    file = ann_file(path, generation)
    made: list[int] = []
    try:
        write_file(file, lambda: made.extend(build_ann(slots, file)))
    except ImportError as error:
        logger.warning(
            "%s: the vectors have a new file, but no approximate index, so every vector will be looked at: %s, and then "
            "`mice-st store index %s --ann`",
            path,
            error,
            path,
        )
        return
    definition = AnnDefinition(generation, len(slots), *made)
    writer.execute("UPDATE derived SET definition = ? WHERE name = 'ann'", (json.dumps(definition),))


class SqliteAnn:
    """The index of one store, read at the first search that needs it and kept until the store has another one.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read: tuple[AnnDefinition | str, AnnIndex | None] | None = None

    def index(self, connection: sqlite3.Connection, generation: int, slots: int) -> AnnIndex | None:
        """The index; None where there is none, or where it cannot be used, which is said once.

        Args:
            connection: Reads one commit.
            generation: Of the file of vectors in this commit.
            slots: How many slots it has.
        """
        wanted: AnnDefinition | str
        try:
            definition = ann_definition(connection, generation)
            if definition is None:
                return None
            if definition.slots > slots:
                raise ValueError(f"it covers {definition.slots} of {slots} vectors")
            wanted = definition
        except ValueError as error:
            definition, wanted = None, str(error)
        with self._lock:  # others wait instead of reading the same file
            if self._read is None or self._read[0] != wanted:
                self._read = (wanted, self._load(definition, str(wanted)))
            return self._read[1]

    def _load(self, definition: AnnDefinition | None, problem: str) -> AnnIndex | None:
        if definition is not None:
            try:
                return AnnIndex(ann_file(self._path, definition.generation), definition.slots, definition.crc)
            except (ImportError, OSError, ValueError) as error:
                problem = str(error)
        logger.warning(
            "%s: the approximate index of its vectors cannot be used, so every vector is looked at: %s. "
            "`mice-st store index %s --ann` makes it anew, `--no-ann` removes it",
            self._path,
            problem,
            self._path,
        )
        return None


def ann_problems(connection: sqlite3.Connection, path: Path, generation: int, mapped: np.ndarray) -> list[str]:
    """Compare the index with the file of vectors.

    Args:
        connection: Reads one commit.
        path: The database.
        generation: Of the file of vectors.
        mapped: Its slots.

    Returns:
        One line per problem. Without the extra ``ann``, the index is taken for sound if its file is as it was written.
    """
    file = ann_file(path, generation)
    try:
        definition = ann_definition(connection, generation)
        if definition is None:
            return []
        if definition.slots > len(mapped):
            raise ValueError(f"it covers {definition.slots} of {len(mapped)} vectors")
        try:
            index = AnnIndex(file, definition.slots, definition.crc)
        except ImportError:
            return [] if file_crc(file) == definition.crc else [f"{file.name}: CRC-32 does not match"]
        if index.n_lists != definition.lists:
            raise ValueError(f"it has {index.n_lists} lists instead of {definition.lists}")
        for number in range(index.n_lists):
            right = unit_vectors(mapped[index.places(number)]).astype(np.float16)
            if not np.allclose(index.unit_vectors(number), right, rtol=0, atol=1e-3):  # some processors round otherwise
                raise ValueError(f"list {number} has other vectors than the store")
    except (OSError, ValueError) as error:
        return [f"{file.name}, the approximate index: {error}; `mice-st store index {path} --ann` makes it anew"]
    return []
