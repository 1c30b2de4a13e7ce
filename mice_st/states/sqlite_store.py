"""The default store: one SQLite file and what is made from it, one writer at a time, any number of readers."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from os import PathLike
from pathlib import Path

from .ann import faiss_package
from .errors import StoreError, StoreLockedError, StoreNotFoundError
from .identity import Fingerprint, StoreSettings
from .reports import CompactReport, DamagedDocument, VerifyReport
from .sqlite_ann import ann_definition, ann_file, has_ann, want_ann
from .sqlite_files import LOCK_SECONDS, acquire, connect, create, sync, translated, write_file
from .sqlite_meta import read_counters, read_meta
from .sqlite_migration import SqliteMigration
from .sqlite_search import slots_from_rows, vector_file, vectors_definition
from .sqlite_verify import damaged_documents, verify_sqlite
from .sqlite_writer import SqliteWriter

logger = logging.getLogger(__name__)

READ_THREADS = 8


def check_path(path: str | PathLike[str]) -> Path:
    """The file that a path means; a link is followed, so that both its names have one lock and one file of vectors.

    Raises:
        ValueError: If no store can lie there.
    """
    name = os.fspath(path)
    if not name or name.startswith(":memory:"):
        raise ValueError(f"{name!r}: a store is a file; it cannot be in memory alone")
    if name.rstrip("/").endswith(".lance"):
        raise ValueError(f"{name}: a name ending in .lance is a Lance store's")
    file = Path(os.path.realpath(name)) if Path(name).is_symlink() else Path(name)
    if file.is_dir():
        raise ValueError(f"{name}: is a folder; a SQLite store is a file, and a Lance store's name ends in .lance")
    return file


class SqliteStore(SqliteWriter):
    """Document states in a SQLite file; ``Store`` documents each method.

    Several objects, threads and processes may have a store open for writing: the first ``put`` or ``delete`` waits for
    its turn and keeps it until ``commit``. A process forked while it is open must open its own.

    Args:
        path: The file, for instance ``corpus.sqlite``; created if it is missing and this is opened for writing.
        fingerprint: What the states must have been made by; None accepts what the file holds, and cannot create one.
        read_only: Whether only to read.
        settings: What a new store keeps beside its fingerprint.
        threads: Threads that read large batches.
        lock_timeout: Seconds to wait for another writer.

    Raises:
        StoreNotFoundError: If the file is missing, and ``read_only`` is set or there is no fingerprint to create it
            with.
        StoreMismatchError: If the states were made by something else.
        StoreVersionError: If another version of the format wrote it.
        StoreReadOnlyError: If a writer cannot write the folder.
        StoreCorruptError: If the file is damaged or is no store.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        fingerprint: Fingerprint | None,
        *,
        read_only: bool,
        settings: StoreSettings | None = None,
        threads: int = READ_THREADS,
        lock_timeout: float = LOCK_SECONDS,
    ) -> None:
        file = check_path(path)
        makes = fingerprint is not None and not read_only
        if not makes and not file.exists():  # before a lock file would lie beside nothing
            raise StoreNotFoundError(f"{file}: there is no store here")
        super().__init__(file, read_only=read_only, threads=threads, lock_timeout=lock_timeout)
        try:
            self._open(fingerprint, settings or StoreSettings())
        except BaseException:
            self.close()
            raise

    def _open(self, expected: Fingerprint | None, settings: StoreSettings) -> None:
        with translated(self.path):
            if not self.path.exists() and expected is not None:
                with self._locked():
                    if not self.path.exists():
                        create(self.path, expected, settings)
            with self._reader() as reader:
                fingerprint, stored, _ = read_meta(reader, self.path)
        self._bind(fingerprint, stored, expected, settings.model)

    # The whole store

    def damaged(self) -> list[DamagedDocument]:
        """Documents whose rows are not as they were written."""
        return damaged_documents(self)

    def verify(self) -> VerifyReport:
        """Read and check everything: SQLite's own structures, every row's CRC, and that tables, words and vectors agree."""
        documents, tokens, problems = verify_sqlite(self)
        return self._verify_report(documents, tokens, problems)

    def compact(self) -> CompactReport:
        """Rewrite the file without holes and empty the WAL; needs free space for a second copy, and is safe to kill."""
        self._refuse_uncommitted("compacting")
        with self._writing, translated(self.path):
            before = self._bytes()
            with self._transaction() as writer:
                writer.execute("INSERT INTO words (words) VALUES ('optimize')")
                self._rebuild_vectors(writer)
                self._count_change(writer)
                self._end(commit=True)
            self._remove_old_files()
            with self._locked():
                connection = connect(self.path, "rw")
                try:
                    connection.execute("VACUUM")
                    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                finally:
                    connection.close()
            if busy:
                logger.warning("%s: a reader is at work; its WAL shrinks when the store is next compacted", self.path)
            return CompactReport(before, self._bytes())

    def _bytes(self) -> int:
        files = [self.path, Path(f"{self.path}-wal"), *(file for file, _ in self._made_files())]
        return sum(f.stat().st_size for f in files if f.exists())

    def backup(self, path: str) -> None:
        """Write a copy of the latest commit of this store, which may be in use."""
        target = check_path(path)
        if target.exists():
            raise FileExistsError(f"{target}: there is a file already")
        if not target.parent.is_dir():
            raise StoreNotFoundError(f"{target.parent}: no such folder")
        temporary = Path(f"{target}.new")
        # Names that no file of the store has: a copy put over it must not overwrite what somebody has mapped.
        generation = secrets.randbits(47)
        with self._reader() as reader:
            definition = vectors_definition(reader)
            slots = read_counters(reader).slots
            if definition is not None:
                source = vector_file(self.path, definition)
                found = source.map(slots)
                mapped = slots_from_rows(reader, source) if found is None else found
                copy = vector_file(target, definition._replace(generation=generation))
                write_file(copy.path, lambda: copy.write(0, mapped["key"].tolist(), mapped["vector"]))
                if found is not None:
                    self._backup_ann(reader, definition.generation, target, generation)
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                reader.backup(connection)
                for name in ("vectors", "ann"):  # the first number of both definitions
                    connection.execute(
                        "UPDATE derived SET definition = json_set(definition, '$[0]', ?) WHERE name = ? AND definition NOT LIKE '[0,%'",
                        (generation, name),
                    )
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent if target.parent != Path() else Path("."))

    def _backup_ann(self, reader: sqlite3.Connection, generation: int, target: Path, copied: int) -> None:
        """Copy the index, if there is one that can be used; the copy of the store says where it is missing."""
        source, copy = ann_file(self.path, generation), ann_file(target, copied)
        try:
            if ann_definition(reader, generation) is None:
                return
            with open(source, "rb") as file, open(copy, "wb") as target_file:
                write_file(copy, lambda: shutil.copyfileobj(file, target_file))
        except (ValueError, FileNotFoundError):  # the second: it was replaced meanwhile
            return
        sync(copy)

    # An approximate index

    def build_ann(self) -> int:
        """Make an approximate index of the vectors, of their file made anew, and commit."""
        self._refuse_uncommitted("making an approximate index")
        faiss_package()
        with self._transaction() as writer:
            want_ann(writer)
            self._rebuild_vectors(writer)
            slots = read_counters(writer).slots
            if not slots:
                raise StoreError(f"{self.path}: no document has a pooled vector")
            self._count_change(writer)
            self._end(commit=True)
        self._remove_old_files()
        return slots

    def drop_ann(self) -> bool:
        """Remove the approximate index, and commit."""
        self._refuse_uncommitted("removing the approximate index")
        with self._transaction() as writer:
            there = has_ann(writer)
            writer.execute("DELETE FROM derived WHERE name = 'ann'")
            self._count_change(writer)
            self._end(commit=there)
        self._remove_old_files()
        return there

    def begin_migration(self, fingerprint: Fingerprint, settings: StoreSettings) -> SqliteMigration:
        """Begin to move the store to another model, or go on with it."""
        self._refuse_uncommitted("a migration")
        return SqliteMigration(self, fingerprint, settings)

    def close(self) -> None:
        """Release files and lock; what is uncommitted is dropped, with a warning. Closing twice is allowed."""
        if self._closed:
            return
        if self._writer is not None:
            logger.warning("%s: closed with uncommitted changes, which are dropped", self.path)
            with translated(self.path):
                self._end(commit=False)
        self._close_readers()
        if self._has_committed:
            with suppress(StoreLockedError), translated(self.path):  # whoever is at work will do the same
                acquire(self._lock, self.path, 0)  # type: ignore[arg-type]  # it has one, for it has committed
                try:
                    connect(self.path, "rw").close()  # the last one takes what waits in the WAL into the file
                finally:
                    self._lock.release()  # type: ignore[union-attr]
