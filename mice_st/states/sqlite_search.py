"""The first stage of a SQLite store: words in its FTS5 table, vectors in the file beside it, or by its index."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .ann import AnnIndex, AnnView
from .errors import StoreCorruptError, StoreError
from .identity import Tokenizer
from .rows import read_pooled
from .sqlite_ann import SqliteAnn
from .sqlite_files import connect_reader
from .sqlite_meta import read_counters, read_keys
from .vectors import VectorFile, best_slots, cosines, in_order, norms, unit_query
from .where import Where
from .words import query_terms, quoted

logger = logging.getLogger(__name__)

WORD_COUNTS = "CREATE VIRTUAL TABLE IF NOT EXISTS temp.word_counts USING fts5vocab('main', 'words', 'row')"
_ADMITTED = "SELECT d.key FROM documents AS d LEFT JOIN metadata AS m ON m.key = d.key WHERE {condition}"


class VectorsDefinition(NamedTuple):
    """What ``derived`` says of the file of vectors."""

    generation: int
    width: int
    half: bool


def vectors_definition(connection: sqlite3.Connection) -> VectorsDefinition | None:
    """The file that holds the store's vectors; None where there are none.

    Raises:
        StoreCorruptError: If the entry cannot be read.
    """
    row = connection.execute("SELECT definition FROM derived WHERE name = 'vectors'").fetchone()
    if row is None:
        return None
    try:
        generation, width, half = json.loads(row[0])
        return VectorsDefinition(int(generation), int(width), bool(half))
    except (TypeError, ValueError) as error:
        raise StoreCorruptError(f"the entry of the file of vectors is damaged: {row[0]!r}") from error


def is_replaced(path: Path, definition: VectorsDefinition) -> bool:
    """Whether the latest commit names another file of vectors: then one that a reader misses is no damage.

    Args:
        path: The database.
        definition: What the commit that is read says of its file.
    """
    with closing(connect_reader(path)) as latest:
        return vectors_definition(latest) != definition


def vector_file(path: Path, definition: VectorsDefinition) -> VectorFile:
    """The file of vectors of the store at ``path``."""
    return VectorFile(Path(f"{path}-vectors-{definition.generation}"), definition.width, definition.half)


@dataclass
class _Mapped:
    """The vectors of one commit.

    Attributes:
        of: What it was made of: the file, its slots and the commit.
        slots: As ``VectorFile.map`` gives them.
        keys: Key of each slot, ``(n,)`` int64.
        live: Whether each slot is a document's, ``(n,)`` bool.
        numbered: Whether slots have the numbers that they have in the file; not where they were read from the rows.
        view: The index with all live slots, once a search needs it; None before.
    """

    of: tuple[VectorsDefinition, int, int]
    slots: np.ndarray
    keys: np.ndarray
    live: np.ndarray
    numbered: bool
    view: tuple[AnnIndex, AnnView] | None = None


class SqliteSearch:
    """Searches one store; keeps the map of its vectors from one search to the next.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapped: _Mapped | None = None
        self._ann = SqliteAnn(path)
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop what was read within a transaction that did not come to pass."""
        with self._lock:
            self._mapped = None

    # Words

    def words(
        self, connection: sqlite3.Connection, query: str, tokenizer: Tokenizer, top_k: int, where: Where | None
    ) -> dict[str, float]:
        """See ``Store.search_words``."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self._refuse_lacking(connection, "text", "its text")
        terms = query_terms(query, tokenizer)
        if not terms:
            return {}
        admitted, parameters = ("", []) if where is None else _admitted(where)
        # bm25 gives a word that stands in over half of the documents a weight of 1e-6, yet it costs most of the time:
        # its documents are looked at only where those of the other words do not suffice.
        rare = self._rare(connection, terms)
        found = self._match(connection, rare, top_k, admitted, parameters) if rare else []
        if len(found) < top_k and len(rare) < len(terms):
            found = self._match(connection, terms, top_k, admitted, parameters)
        names = _ids_of(connection, [key for key, _ in found])
        return in_order(((names[key], -score) for key, score in found if key in names), top_k)

    @staticmethod
    def _rare(connection: sqlite3.Connection, terms: list[str]) -> list[str]:
        connection.execute(WORD_COUNTS)
        half = connection.execute("SELECT count(*) FROM documents").fetchone()[0] / 2
        rare = []
        for term in terms:
            row = connection.execute("SELECT doc FROM temp.word_counts WHERE term = ?", (term.lower(),)).fetchone()
            if row is None or row[0] <= half:
                rare.append(term)
        return rare

    @staticmethod
    def _match(
        connection: sqlite3.Connection, terms: list[str], top_k: int, admitted: str, parameters: list
    ) -> list[tuple[int, float]]:
        """Keys and scores (smaller is better) of the best documents, with all that equal the last of them."""
        expression = " OR ".join(quoted(term) for term in terms)
        select = f"SELECT rowid, rank FROM words WHERE words MATCH ?{admitted}"
        found = connection.execute(f"{select} ORDER BY rank LIMIT ?", (expression, *parameters, top_k + 1)).fetchall()
        if len(found) > top_k and found[top_k][1] == found[top_k - 1][1]:
            return connection.execute(f"{select} AND rank <= ?", (expression, *parameters, found[top_k][1])).fetchall()
        return found[:top_k]

    # Vectors

    def vectors(
        self, connection: sqlite3.Connection, vector: Tensor, top_k: int, where: Where | None
    ) -> dict[str, float]:
        """See ``Store.search_vectors``."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self._refuse_lacking(connection, "pooled", "a pooled vector")
        definition = vectors_definition(connection)
        if definition is None:
            return {}
        if vector.shape != (definition.width,):
            raise ValueError(f"a vector {tuple(vector.shape)} for a store whose vectors have {definition.width} values")
        mapped = self._map(connection, definition)
        admitted = mapped.live
        if where is not None:
            condition, parameters = where.sql("m.value")
            keys = read_keys(connection, _ADMITTED.format(condition=condition), parameters)
            admitted = admitted & np.isin(mapped.keys, keys)
        places, scores = self._scored(connection, mapped, admitted, vector, top_k)
        wanted = admitted if places is None else admitted[places]
        sound = bool((np.abs(scores[wanted]) < 1.001).all())  # neither NaN nor what no cosine can be
        best = best_slots(scores, wanted, top_k) if sound else np.empty(0, dtype=np.int64)
        places, scores = (best if places is None else places[best]), scores[best]
        names = _ids_of(connection, mapped.keys[places].tolist())
        if not sound or len(names) != len(places):
            raise StoreCorruptError(
                f"{self._path}: the file of vectors does not fit the store; `mice-st store repair` makes it anew"
            )
        found = zip(mapped.keys[places].tolist(), scores.tolist(), strict=True)
        return in_order(((names[key], score) for key, score in found), top_k)

    def _scored(
        self, connection: sqlite3.Connection, mapped: _Mapped, admitted: np.ndarray, vector: Tensor, top_k: int
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """The slots that were looked at, None for all of them, and their cosines with the vector."""
        definition, slots, _ = mapped.of
        index = self._ann.index(connection, definition.generation, slots) if mapped.numbered else None
        if index is None:
            return None, cosines(mapped.slots, vector)
        kept = mapped.view
        if admitted is mapped.live and kept is not None and kept[0] is index:
            view = kept[1]
        else:
            view = index.view(admitted[: index.slots])
            if admitted is mapped.live:
                mapped.view = (index, view)
        near = view.candidates(unit_query(vector).numpy(), top_k)
        if near is None:
            return None, cosines(mapped.slots, vector)
        places = np.concatenate([near, np.arange(index.slots, slots)])  # what was added since is looked at as a whole
        return places, np.concatenate(
            [cosines(mapped.slots[near], vector), cosines(mapped.slots[index.slots :], vector)]
        )

    def _map(self, connection: sqlite3.Connection, definition: VectorsDefinition) -> _Mapped:
        commits, _, slots = read_counters(connection)
        of = (definition, slots, commits)
        with self._lock:
            before = self._mapped
        if before is not None and before.of == of:
            return before
        file = vector_file(self._path, definition)
        known = np.empty(0, dtype=np.int64)  # keys of slots never change
        found = file.map(slots)
        numbered = found is not None
        if found is None:
            if not is_replaced(self._path, definition):
                logger.warning(
                    "%s: not there or too short; the vectors are read from the rows. `mice-st store repair` makes it anew",
                    file.path,
                )
            mapped_slots = slots_from_rows(connection, file)
        else:
            mapped_slots = found
            if before is not None and before.of[0] == definition and before.of[1] <= slots:
                known = before.keys
        keys = np.concatenate([known, mapped_slots["key"][len(known) :]])
        dead = read_keys(connection, "SELECT key FROM dead_slots")
        mapped = _Mapped(of, mapped_slots, keys, ~np.isin(keys, dead), numbered)
        with self._lock:
            self._mapped = mapped
        return mapped

    def _refuse_lacking(self, connection: sqlite3.Connection, column: str, what: str) -> None:
        row = connection.execute(f"SELECT id FROM documents WHERE {column} IS NULL LIMIT 1").fetchone()
        if row is not None:
            raise StoreError(f"document {row[0]!r} was put without {what}")


def slots_from_rows(connection: sqlite3.Connection, file: VectorFile) -> np.ndarray:
    """What the file of vectors is to hold, from the documents' rows."""
    rows = connection.execute("SELECT key, pooled FROM documents WHERE pooled IS NOT NULL ORDER BY key").fetchall()
    slots = np.zeros(len(rows), dtype=file.slot)
    for place, (key, blob) in enumerate(rows):
        vector = checked_vector(blob, key)
        if vector.size != file.width:
            raise StoreCorruptError(f"the pooled vector of the document in row {key} has {vector.size} values")
        slots[place] = (key, norms(vector[None])[0], vector)
    return slots


def checked_vector(blob: Any, key: int) -> np.ndarray:
    """The vector in a ``pooled`` column whose row was not checked.

    Raises:
        StoreCorruptError: If it is none.
    """
    try:
        return read_pooled(blob)
    except (TypeError, KeyError, ValueError) as error:
        raise StoreCorruptError(f"the pooled vector of the document in row {key} is damaged") from error


def _admitted(where: Where) -> tuple[str, list]:
    condition, parameters = where.sql("m.value")
    # The plus keeps SQLite from asking the full-text index once for each admitted document.
    return f" AND +rowid IN ({_ADMITTED.format(condition=condition)})", parameters


def _ids_of(connection: sqlite3.Connection, keys: list[int]) -> dict[int, str]:
    names = dict(
        connection.execute(
            "SELECT d.key, d.id FROM json_each(?) AS wanted JOIN documents AS d ON d.key = wanted.value",
            (json.dumps(keys),),
        )
    )
    if not all(isinstance(name, str) for name in names.values()):
        raise StoreCorruptError("an id in the store is damaged")
    return names
