"""Reading a SQLite store: batches of states, light rows for a first stage, and verification.

A batch is one query that joins the wanted ids (as JSON) to their rows in order; large batches are cut into parts read
by threads, for SQLite and zlib let go of the interpreter while they read and check.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue

from .errors import StoreCorruptError, StoreError, UnknownDocumentError
from .packed import PackedStates
from .put_checks import check_ids
from .reports import VerifyReport
from .rows import DocumentRow, Packer, StateRow
from .sqlite_files import PAGE_BYTES, connect_reader, translated
from .store import Entry, Store

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
_DOCUMENTS = """
SELECT key, id, content_hash, n_tokens, crc, text, pooled FROM documents WHERE key > ? ORDER BY key LIMIT ?
"""
_DOCUMENTS_OF = """
SELECT wanted.value, d.id, d.content_hash, d.n_tokens, d.crc, d.text, d.pooled
FROM json_each(?) AS wanted LEFT JOIN documents AS d ON d.id = wanted.value
"""
_STATE = "SELECT id, content_hash, n_tokens, crc, input_ids, scales, payload FROM states WHERE key = ?"


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
        self._writer: sqlite3.Connection | None = None
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for this thread: the writer's own while it holds uncommitted rows, else an idle or a new one."""
        self._check_open()
        with translated(self.path):
            if self._writer is not None and self._writer.in_transaction:
                with self._writing:
                    yield self._writer
                return
            try:
                connection = self._idle.get_nowait()
            except Empty:
                connection = connect_reader(self.path)
            try:
                yield connection
            except BaseException:
                connection.close()  # its page cache may hold what failed
                raise
            self._idle.put(connection)

    def _read(self, ids: Sequence[str]) -> tuple[Packer, list[str]]:
        """Pack the documents of one snapshot of the store, and name the unknown ones."""
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

    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order of ``ids``.

        Fewer than 256 documents come from one commit. More are read by threads, and may mix two commits if a writer is
        at work.
        """
        check_ids(ids)
        self._check_open()
        parallel = len(ids) >= PARALLEL_IDS and self.threads > 1
        packer, unknown = self._read_by_threads(list(ids)) if parallel else self._read(list(ids))
        if unknown:
            raise UnknownDocumentError(unknown)
        return packer.packed()

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        check_ids(ids)
        with self._reader() as connection:
            rows = connection.execute(_ENTRIES, (json.dumps(list(ids), ensure_ascii=False),)).fetchall()
        if [row[0] for row in rows] != list(ids) or any(row[5] is not None and row[1] != row[0] for row in rows):
            raise StoreCorruptError(f"{self.path}: the index of ids is damaged")
        return [
            Entry(id_, None if key is None else content_hash, bool(has_text), bool(has_pooled), key)
            for id_, _, content_hash, has_text, has_pooled, key in rows
        ]

    def __len__(self) -> int:
        with self._reader() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def _documents_by_key(self) -> Iterator[tuple[int, DocumentRow]]:
        """Light rows, unchecked, with their keys, in the order of their first put; no transaction stays open in between."""
        key = -1
        while True:
            with self._reader() as connection:
                page = connection.execute(_DOCUMENTS, (key, PAGE_ROWS)).fetchall()
            for row in page:
                if not isinstance(row[0], int) or row[0] <= key:
                    raise StoreCorruptError(f"{self.path}: the table of documents is out of order")
                key = row[0]
                yield key, DocumentRow._make(row[1:])
            if len(page) < PAGE_ROWS:
                return

    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        if ids is None:
            return (row for _, row in self._documents_by_key())
        check_ids(ids)
        with self._reader() as connection:
            rows = connection.execute(_DOCUMENTS_OF, (json.dumps(list(ids), ensure_ascii=False),)).fetchall()
        unknown = [row[0] for row in rows if row[1] is None]
        if unknown:
            raise UnknownDocumentError(unknown)
        if [row[1] for row in rows] != list(ids):
            raise StoreCorruptError(f"{self.path}: the index of ids is damaged")
        return (DocumentRow._make(row[1:]) for row in rows)

    def verify(self) -> VerifyReport:
        """Read and check everything: SQLite's own structures, every row's CRC, and that the two tables agree."""
        problems: list[str] = []
        documents = tokens = 0
        try:
            with self._reader() as connection:
                lines = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            problems += [f"SQLite: {line}" for line in lines if line != "ok"]
            if self.path.stat().st_size % PAGE_BYTES:  # SQLite reads the rest of the last page as zeros
                problems.append("the file ends within a page")
            with self._reader() as connection:
                counts = connection.execute("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM states)")
                n_documents, n_states = counts.fetchone()
            if n_documents != n_states:
                problems.append(f"{n_documents} documents but {n_states} states")
            for key, light in self._documents_by_key():
                try:
                    tokens += self._verify_one(key, light)
                    documents += 1
                except StoreError as error:
                    problems.append(str(error))
        except StoreError as error:
            problems.append(str(error))
        return self._verify_report(documents, tokens, problems)

    def _verify_one(self, key: int, light: DocumentRow) -> int:
        """Tokens of one sound document."""
        self._format.check_document(light)
        with self._reader() as connection:
            row = connection.execute(_STATE, (key,)).fetchone()
        if row is None:
            raise StoreCorruptError(f"document {light.id!r}: its states are missing")
        state = StateRow._make(row)
        self._format.check_state(state, light.id)
        if (state.content_hash, state.n_tokens) != (light.content_hash, light.n_tokens):
            raise StoreCorruptError(f"document {light.id!r}: its two rows disagree")
        return state.n_tokens

    def _close_readers(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get_nowait().close()
