"""The default store: one SQLite file, one locked writer, any number of readers (``sqlite_reader.py``)."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from .errors import StoreError, StoreNotFoundError
from .identity import Fingerprint
from .reports import CompactReport
from .rows import DocumentRow, StateRow
from .sqlite_files import connect, create, lock_writer, read_fingerprint, translated
from .sqlite_reader import SqliteReader
from .store import Change, Entry

logger = logging.getLogger(__name__)

READ_THREADS = 8


class SqliteStore(SqliteReader):
    """Document states in one SQLite file; ``Store`` documents each method.

    Threads may share a store. A process forked while it is open must open its own.

    Args:
        path: The file, for instance ``corpus.sqlite``; created if it is missing and this is the writer.
        fingerprint: What the states must have been made by; None accepts what the file holds, and cannot create one.
        read_only: Whether only to read.
        threads: Threads that read large batches.

    Raises:
        StoreNotFoundError: If the file is missing, and ``read_only`` is set or there is no fingerprint to create it
            with.
        StoreMismatchError: If the states were made by something else.
        StoreLockedError: If there is another writer.
        StoreReadOnlyError: If a writer cannot write the folder.
        StoreCorruptError: If the file is damaged or is no store.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        fingerprint: Fingerprint | None,
        *,
        read_only: bool,
        threads: int = READ_THREADS,
    ) -> None:
        super().__init__(Path(path), read_only=read_only, threads=threads)
        if fingerprint is None and not self.path.exists():  # before a lock file would lie beside nothing
            raise StoreNotFoundError(f"{self.path}: there is no store here")
        self._lock = None if read_only else lock_writer(self.path)
        try:
            self._open(fingerprint)
        except BaseException:
            self.close()
            raise

    def _open(self, expected: Fingerprint | None) -> None:
        with translated(self.path):
            if not self.path.exists():
                if self.read_only or expected is None:
                    raise StoreNotFoundError(f"{self.path}: there is no store here")
                create(self.path, expected)
            if not self.read_only:
                self._writer = connect(self.path, "rw")
                fingerprint = read_fingerprint(self._writer, self.path)
                if self._writer.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                    raise StoreError(f"{self.path}: this file system does not support SQLite's WAL")
            else:
                with self._reader() as reader:
                    fingerprint = read_fingerprint(reader, self.path)
        self._bind(fingerprint, expected)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The writer inside a transaction, which is dropped if the block fails."""
        self._check_writable()
        assert self._writer is not None  # as in every store that is open for writing
        with self._writing, translated(self.path):
            try:
                if not self._writer.in_transaction:
                    self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _write(self, changes: Sequence[Change]) -> None:
        with self._reader() as connection:
            highest = connection.execute("SELECT coalesce(max(key), 0) FROM documents").fetchone()[0]
        free = itertools.count(highest + 1)
        keys = [next(free) if change.entry.key is None else change.entry.key for change in changes]
        tables: dict[str, Sequence[StateRow | DocumentRow]] = {
            "states": [change.state for change in changes],
            "documents": [change.document for change in changes],
        }
        with self._transaction() as writer:
            for table, rows in tables.items():
                marks = ", ".join("?" * (1 + len(rows[0])))
                writer.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])
                writer.executemany(
                    f"INSERT INTO {table} VALUES ({marks})", [(k, *row) for k, row in zip(keys, rows, strict=True)]
                )

    def _remove(self, entries: Sequence[Entry]) -> None:
        with self._transaction() as writer:
            for table in ("states", "documents"):
                writer.executemany(f"DELETE FROM {table} WHERE key = ?", [(entry.key,) for entry in entries])

    def commit(self) -> None:
        """Make everything put and deleted so far durable: it is on the disk when this returns."""
        with self._transaction() as writer:
            writer.execute("COMMIT")

    def compact(self) -> CompactReport:
        """Rewrite the file without holes and empty the WAL; needs free space for a second copy, and is safe to kill."""
        self._check_writable()
        assert self._writer is not None
        with self._writing, translated(self.path):
            if self._writer.in_transaction:
                raise StoreError(f"{self.path}: commit before compacting")
            before = self._bytes()
            self._writer.execute("VACUUM")
            busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                logger.warning("%s: a reader is at work; its WAL shrinks when the store is next compacted", self.path)
            return CompactReport(before, self._bytes())

    def _bytes(self) -> int:
        return sum(f.stat().st_size for f in (self.path, Path(f"{self.path}-wal")) if f.exists())

    def close(self) -> None:
        """Release files and lock; what is uncommitted is dropped, with a warning. Closing twice is allowed."""
        if self._closed:
            return
        self._close_readers()
        try:
            if self._writer is not None:
                if self._writer.in_transaction:
                    logger.warning("%s: closed with uncommitted changes, which are dropped", self.path)
                writer, self._writer = self._writer, None
                with translated(self.path):
                    writer.close()
        finally:
            if self._lock is not None:
                os.close(self._lock)
