"""The files of a SQLite store: created whole or not at all, opened so that damage is noticed, locked for one writer.

Beside ``store.sqlite`` lie ``store.sqlite.lock`` (held while something is written; stays, empty),
``store.sqlite-vectors-N`` (made from the rows, see ``vectors.py``), ``store.sqlite-ann-N`` (made from these, see ``ann.py``), and ``-wal`` and ``-shm``: while a writer is at work,
after a crash, and, the first of them empty, after reading. A store that nobody writes is whole without all of them. WAL
with synchronous=FULL survives a killed process and a power cut. One connection writes at a time, and the database is not
mapped: SQLite 3.7.0-3.51.2 can damage a WAL that two connections write to, and a truncated file that is mapped kills the
process.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from .errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from .identity import FORMAT_VERSION, Fingerprint, StoreSettings, Tokenizer
from .sqlite_meta import APPLICATION_ID, write_meta
from .words import FTS5_TOKENIZERS

BUSY_SECONDS = 30.0
LOCK_SECONDS = 60.0  # a writer holds the lock for one transaction, or for a compaction
# A row of 29 KB (75 tokens, 384 wide, int8) is a chain of pages of which the last is half empty: small pages waste little
# (1.5%; 65,536 bytes: 31%), and reading 100 such rows takes 2.4 ms (1.7 with the largest).
PAGE_BYTES = 2048
WORDS_PAGE_BYTES = 1980  # of the full-text index: with the row's head it fits into a page

# `documents` is light, for finding ids and for the first stage; `states` is heavy, and repeats the id so that each row
# proves whose it is. A document that changes gets a new key, so that what was made from a key never changes. Tables and
# files made from the rows are listed in `derived` with the commit that they agree with: one that a writer did not know
# falls behind, and whoever knows it makes it anew.
SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
CREATE TABLE meta (
    key INTEGER PRIMARY KEY CHECK (key = 1), fingerprint TEXT NOT NULL, settings TEXT NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE counters (
    key INTEGER PRIMARY KEY CHECK (key = 1), commits INTEGER NOT NULL, next_key INTEGER NOT NULL, slots INTEGER NOT NULL
);
INSERT INTO counters VALUES (1, 0, 1, 0);
CREATE TABLE derived (name TEXT PRIMARY KEY, definition TEXT NOT NULL, commits INTEGER NOT NULL);
CREATE TABLE documents (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL,
    text TEXT, pooled BLOB
);
CREATE INDEX without_text ON documents (key) WHERE text IS NULL;
CREATE INDEX without_pooled ON documents (key) WHERE pooled IS NULL;
CREATE TABLE metadata (key INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE dead_slots (key INTEGER PRIMARY KEY);
CREATE TABLE states (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL,
    input_ids BLOB NOT NULL, scales BLOB NOT NULL, payload BLOB NOT NULL
);
"""


def words_schema(tokenizer: Tokenizer, table: str = "words") -> str:
    """The statements that make an empty full-text index.

    Without content: its rows are given to it, and what leaves it is given once more with its text. SQLite's own
    ``contentless_delete`` keeps deleted rows in bm25's statistics before 3.54.0, and Python's SQLite may not know it.
    """
    rule = FTS5_TOKENIZERS[tokenizer].replace("'", "''")
    return (
        f"CREATE VIRTUAL TABLE {table} USING fts5(text, content='', tokenize='{rule}');\n"
        f"INSERT INTO {table} ({table}, rank) VALUES ('pgsz', {WORDS_PAGE_BYTES});\n"
    )


def translate(error: Exception, path: Path) -> StoreError:
    """The store's own exception for one of SQLite's.

    Args:
        error: A ``sqlite3.Error``, the MemoryError that an absurd length in a damaged file may cause, or the
            UnicodeDecodeError of a message that quotes damaged text.
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
    except (
        sqlite3.Error,
        MemoryError,
        UnicodeDecodeError,
    ) as error:  # the last: a message that quotes a damaged schema
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
            connection.execute(f"PRAGMA wal_autocheckpoint = {(32 << 20) // PAGE_BYTES}")
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


def create(path: Path, fingerprint: Fingerprint, settings: StoreSettings) -> None:
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
        connection.executescript(words_schema(settings.tokenizer))
        connection.execute("INSERT INTO derived VALUES ('words', ?, 0)", (json.dumps(settings.tokenizer),))
        write_meta(connection, fingerprint, settings)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StoreError(f"{path}: this file system does not support SQLite's WAL")
    finally:
        connection.close()
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders; it keeps a rename by itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, write: Callable[[], object]) -> None:
    """Write a file beside the store; a full disk gets the store's own exception."""
    try:
        write()
    except OSError as error:
        raise StoreFullError(f"{path}: cannot be written: {error}; everything committed before is safe") from error


def writers_lock(path: Path) -> FileLock:
    """The lock that whoever writes a store holds; its file is made here, so that a folder that cannot be written shows.

    Raises:
        StoreReadOnlyError: If the folder cannot be written.
        StoreNotFoundError: If there is no such folder.
    """
    try:
        with open(f"{path}.lock", "ab"):
            pass
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"{path.parent}: no such folder") from error
    except OSError as error:
        raise StoreReadOnlyError(f"{path}: cannot be opened for writing: {error}") from error
    return FileLock(f"{path}.lock", thread_local=False)  # what one thread began another one may commit


def acquire(lock: FileLock, path: Path, seconds: float) -> None:
    """Become the only writer of a store.

    Raises:
        StoreLockedError: If another one is still at work after so many seconds.
    """
    try:
        lock.acquire(timeout=seconds, poll_interval=0.01)
    except Timeout as error:
        raise StoreLockedError(f"{path}: another writer holds it, for over {seconds:g} s") from error
    except OSError as error:
        raise StoreReadOnlyError(f"{path}: cannot be opened for writing: {error}") from error
