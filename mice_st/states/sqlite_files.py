"""The files of a SQLite store: created whole or not at all, opened so that damage is noticed, locked for one writer.

Beside ``store.sqlite`` lie ``store.sqlite.lock`` (held by the writer; stays, empty) and ``-wal`` and ``-shm``: while a
writer is open, after a crash, and, the first of them empty, after reading. A store that its writer closed is whole
without them. WAL with synchronous=FULL survives a killed process and a power cut. There is one writer and no mmap:
SQLite 3.7.0-3.51.2 can damage a WAL that two connections write to, and a truncated file that is mapped kills the
process.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from .errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from .identity import FORMAT_VERSION, Fingerprint

APPLICATION_ID = 0x4D494345  # "MICE"
BUSY_SECONDS = 30.0
PAGE_BYTES = 65536  # a document of 75 tokens, 384 wide, int8, is 29 KB: no chain of overflow pages

# `documents` is light, for finding ids and for the first stage; `states` is heavy, and repeats the id so that each row
# proves whose it is.
SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
CREATE TABLE meta (key INTEGER PRIMARY KEY CHECK (key = 1), fingerprint TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE documents (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL,
    text TEXT, pooled BLOB
);
CREATE TABLE states (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL,
    input_ids BLOB NOT NULL, scales BLOB NOT NULL, payload BLOB NOT NULL
);
"""


def translate(error: Exception, path: Path) -> StoreError:
    """The store's own exception for one of SQLite's.

    Args:
        error: A ``sqlite3.Error``, or the MemoryError that an absurd length in a damaged file may cause.
        path: Of the store, for the message.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return StoreFullError(f"{path}: {error}; everything committed before is safe")
    if code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE, sqlite3.SQLITE_IOERR_FSYNC):
        return StoreFullError(
            f"{path}: cannot be written, for a quota, a file-size limit or a failing disk: {error}; "
            "everything committed before is safe"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(f"{path}: {error}")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return StoreReadOnlyError(f"{path}: {error}")
    return StoreCorruptError(f"{path} is damaged or no store: {error}")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Let only the store's own exceptions out of a block that uses SQLite."""
    try:
        yield
    except (sqlite3.Error, MemoryError) as error:
        raise translate(error, path) from error


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open an existing database without changing it.

    Args:
        path: The database.
        mode: ``ro``, ``rw``, or ``immutable`` for a file that nobody writes.
    """
    query = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{query}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and ended in plain sight
        check_same_thread=False,  # the store hands a connection to one thread at a time
    )
    # A damaged text must reach the check of its row, which names the document; SQLite's own error would name nothing.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if mode == "rw":
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 512")  # pages: 32 MiB
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open for reading, also where the folder cannot be written.

    A reader of a WAL database shares an index file with the writer. Where it cannot create one, the file is read as
    unchanging, which is right only if nothing waits in the ``-wal`` file.

    Raises:
        StoreReadOnlyError: If something does.
    """
    connection = connect(path, "ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError as error:
        connection.close()
        if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        wal = Path(f"{path}-wal")
        if wal.exists() and wal.stat().st_size > 0:
            raise StoreReadOnlyError(
                f"{path}: its -wal file holds rows that a reader in a read-only folder cannot see; open and close the store once "
                "where it can be written"
            ) from error
        return connect(path, "immutable")
    except BaseException:
        connection.close()
        raise


def read_fingerprint(connection: sqlite3.Connection, path: Path) -> Fingerprint:
    """The fingerprint of an open store.

    Raises:
        StoreCorruptError: If it is damaged or this is no store.
        StoreMismatchError: If another version of the format wrote it.
    """
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise StoreCorruptError(f"{path} is damaged or no store of document states (application id)")
    rows = connection.execute("SELECT fingerprint, crc FROM meta").fetchall()
    if (
        len(rows) != 1
        or not isinstance(rows[0][0], str)
        or zlib.crc32(rows[0][0].encode("utf-8", "surrogateescape")) != rows[0][1]
    ):
        raise StoreCorruptError(f"{path}: the fingerprint is damaged (CRC-32 does not match)")
    return Fingerprint.from_json(rows[0][0])


def create(path: Path, fingerprint: Fingerprint) -> None:
    """Create an empty store under a temporary name and rename it: there is never a half-made one.

    Raises:
        StoreCorruptError: If a ``-wal`` file without its database lies here; its pages would be read into the new one.
    """
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size > 0:
        raise StoreCorruptError(f"{path}-wal exists without {path.name}: put that file back, or delete the -wal")
    temporary = Path(f"{path}.new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{temporary}{suffix}").unlink(missing_ok=True)  # of a process that was killed here: we hold the lock
    connection = sqlite3.connect(temporary, isolation_level=None)
    try:
        connection.executescript(SCHEMA)
        line = fingerprint.to_json()
        connection.execute("INSERT INTO meta VALUES (1, ?, ?)", (line, zlib.crc32(line.encode())))
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StoreError(f"{path}: this file system does not support SQLite's WAL")
    finally:
        connection.close()
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_writer(path: Path) -> int:
    """Become the only writer of a store, until the descriptor is closed or the process ends.

    Returns:
        The descriptor that holds the lock.

    Raises:
        StoreLockedError: If there is a writer, at once.
        StoreReadOnlyError: If the folder cannot be written.
        StoreNotFoundError: If there is no such folder.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"{path.parent}: no such folder") from error
    except OSError as error:
        raise StoreReadOnlyError(f"{path}: cannot be opened for writing: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreLockedError(f"{path}: another writer holds it") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
