"""Reading a SQLite store: one commit at a time, batches of states, light rows for a first stage, and the search itself.

A batch is one query that joins the wanted ids (as JSON) to their rows in order; large batches are cut into parts read
by threads, for SQLite and zlib let go of the interpreter while they read and check.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue

from torch import Tensor

from .engine import Entry
from .errors import StoreCorruptError, StoreMovedError, StoreNotFoundError, UnknownDocumentError
from .packed import PackedStates
from .put_checks import check_ids
from .rows import DocumentRow, Packer, StateRow
from .sqlite_files import connect_reader, translated
from .sqlite_meta import read_meta
from .sqlite_search import SqliteSearch
from .store import Store
from .where import Where

PAGE_ROWS = 1000  # light rows read per query by ids(), texts() and pooled()
FETCH_ROWS = 64  # heavy rows held at once, so that they are checked and copied while in cache
PARALLEL_IDS = 256  # from here on a batch is worth the threads

_GET = """
SELECT wanted.key, d.key, s.id, s.content_hash, s.n_tokens, s.crc, s.input_ids, s.scales, s.payload
FROM json_each(?) AS wanted LEFT JOIN documents AS d ON d.id = wanted.value LEFT JOIN states AS s ON s.key = d.key
"""
_ENTRIES = """
SELECT wanted.value, d.id, d.content_hash, d.text IS NOT NULL, d.pooled IS NOT NULL, d.key
FROM json_each(?) AS wanted LEFT JOIN documents AS d ON d.id = wanted.value
"""
_LIGHT = "d.id, d.content_hash, d.n_tokens, d.crc, d.text, m.value, d.pooled"
_DOCUMENTS = f"""
SELECT d.key, {_LIGHT} FROM documents AS d LEFT JOIN metadata AS m ON m.key = d.key
WHERE d.key > ? ORDER BY d.key LIMIT ?
"""
_DOCUMENTS_OF_KEYS = f"""
SELECT d.key, {_LIGHT} FROM json_each(?) AS wanted
JOIN documents AS d ON d.key = wanted.value LEFT JOIN metadata AS m ON m.key = d.key
"""
_DOCUMENTS_OF = f"""
SELECT wanted.value, {_LIGHT} FROM json_each(?) AS wanted
LEFT JOIN documents AS d ON d.id = wanted.value LEFT JOIN metadata AS m ON m.key = d.key
"""


class SqliteReader(Store):
    """The reading half of ``SqliteStore``; ``Store`` documents each method.

    Args:
        path: The database.
        read_only: Whether only to read.
        threads: Threads that read large batches.
    """

    def __init__(self, path: Path, *, read_only: bool, threads: int) -> None:
        super().__init__(str(path), read_only=read_only)
        self.path = path
        self.threads = threads
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._writer: sqlite3.Connection | None = None  # while something is uncommitted
        self._pool: ThreadPoolExecutor | None = None
        self._thread = threading.local()  # .connection: of the commit that this thread is reading
        self._file: tuple[int, int] | None = None  # which file the idle connections have open
        self._meta_crc = 0
        self._search = SqliteSearch(path)

    # One commit at a time

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While it lasts, what this thread reads comes from one commit."""
        with self._reader():
            yield

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads one commit: the writer's own while it holds uncommitted rows, else an idle or a new one."""
        self._check_open()
        if getattr(self._thread, "connection", None) is not None:
            with translated(self.path):
                yield self._thread.connection
            return
        if self._writer is not None:
            with self._writing, translated(self.path):
                if self._writer is not None:  # nobody has committed meanwhile
                    yield self._writer
                    return
        with translated(self.path):
            connection = self._connection()
            try:
                connection.execute("BEGIN")
                self._check_meta(connection)
                self._thread.connection = connection
                yield connection
            except BaseException:
                connection.close()  # its page cache may hold what failed
                raise
            finally:
                self._thread.connection = None
            connection.execute("COMMIT")
            self._idle.put(connection)

    def _connection(self) -> sqlite3.Connection:
        """An idle connection or a new one, to the file that lies at the path now."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{self.path}: there is no store here any more") from error
        if self._file != (
            found.st_dev,
            found.st_ino,
        ):  # another file was put in its place: repaired, restored, upgraded
            self._file = (found.st_dev, found.st_ino)
            self._close_idle()
            self._meta_crc = 0
        try:
            return self._idle.get_nowait()
        except Empty:
            return connect_reader(self.path)

    def _check_meta(self, connection: sqlite3.Connection) -> None:
        """Refuse a store that has become another model's; take new settings over."""
        crc = connection.execute("SELECT crc FROM meta").fetchone()
        if crc == (self._meta_crc,):
            return
        fingerprint, settings, found = read_meta(connection, self.path)
        if hasattr(self, "_fingerprint"):  # opened before
            if fingerprint != self._fingerprint:
                raise StoreMovedError(
                    f"{self.path}: the store was moved to the model {settings.model or 'of another fingerprint'!r}; "
                    "open it anew with that"
                )
            self._settings = settings
        self._meta_crc = found

    # States

    def _read(self, ids: Sequence[str]) -> tuple[Packer, list[str]]:
        """Pack the documents of one commit, and name the unknown ones."""
        packer, unknown = Packer(self._format), []
        position = 0
        with self._reader() as connection:
            cursor = connection.execute(_GET, (json.dumps(ids, ensure_ascii=False),))
            while rows := cursor.fetchmany(FETCH_ROWS):
                for at, key, *row in rows:
                    if at != position or position >= len(ids):
                        raise StoreCorruptError(f"{self.path}: the index of ids is damaged")
                    if key is None:
                        unknown.append(ids[position])
                    else:
                        state = StateRow._make(row)
                        self._format.check_state(state, ids[position])
                        packer.add(state)
                    position += 1
        if position != len(ids):
            raise StoreCorruptError(f"{self.path}: {position} rows for {len(ids)} ids: the index of ids is damaged")
        return packer, unknown

    def _read_by_threads(self, ids: Sequence[str]) -> tuple[Packer, list[str]]:
        with self._writing:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="mice-st-read")
            pool = self._pool
        size = max(PARALLEL_IDS // 4, -(-len(ids) // self.threads))
        parts = pool.map(self._read, [ids[start : start + size] for start in range(0, len(ids), size)])
        packer, unknown = next(parts)
        for more, unknown_there in parts:
            packer.join(more)
            unknown += unknown_there
        return packer, unknown

    def get_known(self, ids: Sequence[str]) -> tuple[list[str], PackedStates]:
        """As ``get``, but documents that the store does not have are left out."""
        packer, unknown = self._pack(ids)
        gone = set(unknown)
        return [id_ for id_ in ids if id_ not in gone], packer.packed()

    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order of ``ids``.

        Outside ``reading()``, 256 documents or more are read by threads, and may mix two commits if a writer is at work.
        """
        packer, unknown = self._pack(ids)
        if unknown:
            raise UnknownDocumentError(unknown)
        return packer.packed()

    def _pack(self, ids: Sequence[str]) -> tuple[Packer, list[str]]:
        check_ids(ids)
        self._check_open()
        one_commit = getattr(self._thread, "connection", None) is not None
        if len(ids) >= PARALLEL_IDS and self.threads > 1 and not one_commit:
            return self._read_by_threads(list(ids))
        return self._read(list(ids))

    # Light rows

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        check_ids(ids)
        with self._reader() as connection:
            rows = connection.execute(_ENTRIES, (json.dumps(list(ids), ensure_ascii=False),)).fetchall()
        if [row[0] for row in rows] != list(ids) or any(row[5] is not None and row[1] != row[0] for row in rows):
            raise StoreCorruptError(f"{self.path}: the index of ids is damaged")
        return [
            Entry(id_, content_hash, bool(has_text), bool(has_pooled), key)
            if key is not None
            else Entry(id_, None, False, False, None)
            for id_, _, content_hash, has_text, has_pooled, key in rows
        ]

    def __len__(self) -> int:
        with self._reader() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def documents_by_key(self) -> Iterator[tuple[int, DocumentRow]]:
        """Light rows, unchecked, with their keys, in the order of their last put; no transaction stays open in between."""
        key = -1
        while page := self.documents_after(key, PAGE_ROWS):
            yield from page
            key = page[-1][0]

    def documents_after(self, key: int, limit: int) -> list[tuple[int, DocumentRow]]:
        """Light rows, unchecked, with their keys, of the first documents beyond a key."""
        with self._reader() as connection:
            page = connection.execute(_DOCUMENTS, (key, limit)).fetchall()
        for row in page:
            if not isinstance(row[0], int) or row[0] <= key:
                raise StoreCorruptError(f"{self.path}: the table of documents is out of order")
            key = row[0]
        return [(row[0], DocumentRow._make(row[1:])) for row in page]

    def documents_of_keys(self, keys: Sequence[int]) -> list[tuple[int, DocumentRow]]:
        """Light rows, unchecked, of the documents that still have these keys."""
        with self._reader() as connection:
            rows = connection.execute(_DOCUMENTS_OF_KEYS, (json.dumps(list(keys)),)).fetchall()
        return [(row[0], DocumentRow._make(row[1:])) for row in rows]

    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        if ids is None:
            return (row for _, row in self.documents_by_key())
        check_ids(ids)
        with self._reader() as connection:
            rows = connection.execute(_DOCUMENTS_OF, (json.dumps(list(ids), ensure_ascii=False),)).fetchall()
        unknown = [row[0] for row in rows if row[1] is None]
        if unknown:
            raise UnknownDocumentError(unknown)
        if [row[1] for row in rows] != list(ids):
            raise StoreCorruptError(f"{self.path}: the index of ids is damaged")
        return (DocumentRow._make(row[1:]) for row in rows)

    # Search

    def search_words(self, query: str, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by BM25 over the stored texts."""
        with self._reader() as connection:
            return self._search.words(connection, query, self._settings.tokenizer, top_k, where)

    def search_vectors(self, vector: Tensor, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by the cosine of their pooled vectors."""
        with self._reader() as connection:
            return self._search.vectors(connection, vector, top_k, where)

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _close_readers(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        self._close_idle()
