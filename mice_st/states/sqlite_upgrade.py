"""Stores of version 1, and stores whose file is damaged: their sound rows are copied to a new file that takes their place.

Nothing is encoded anew. The copy is made beside the store, commit by commit, so that a copy that was broken off goes on;
it takes the store's place once nobody has that open any more.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from .engine import Change, Entry
from .errors import StoreCorruptError, StoreError, StoreLockedError
from .identity import FORMAT_VERSION, Fingerprint, StoreSettings
from .rows import DocumentRow, RowFormat, StateRow
from .sqlite_ann import has_ann, want_ann
from .sqlite_files import LOCK_SECONDS, acquire, connect, sync, translated, writers_lock
from .sqlite_meta import read_version
from .sqlite_store import SqliteStore
from .sqlite_verify import structure_problems

COPY_ROWS = 128

_STATE = "SELECT id, content_hash, n_tokens, crc, input_ids, scales, payload FROM states WHERE key = ?"


def upgrade_sqlite(path: Path, show_progress_bar: bool | None = None) -> int:
    """Turn a store of version 1 into one of this version.

    Args:
        path: The store. Nobody may have it open.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        How many documents it has; the store is left alone where it has this version already.

    Raises:
        StoreCorruptError: If a row is damaged (names the document), or this is no store. Nothing has changed then.
        StoreLockedError: If somebody has the store open; what was copied stays for the next time.
    """
    with translated(path), closing(connect(path, "ro")) as old:
        version = read_version(old, path)
        if version == FORMAT_VERSION:
            return int(old.execute("SELECT count(*) FROM documents").fetchone()[0])
        if version != 1:
            raise StoreError(f"{path}: format version {version} cannot be upgraded from")
        line, crc = old.execute("SELECT fingerprint, crc FROM meta").fetchone()
        if zlib.crc32(line.encode()) != crc:
            raise StoreCorruptError(f"{path}: the fingerprint is damaged (CRC-32 does not match)")
        values = json.loads(line) | {"format_version": FORMAT_VERSION}
        (total,) = old.execute("SELECT count(*) FROM documents").fetchone()
        with SqliteStore(
            Path(f"{path}.upgrading"), Fingerprint(**values), read_only=False, settings=StoreSettings()
        ) as new:
            with tqdm(
                total=total,
                desc="Documents",
                unit="document",
                disable=show_progress_bar is False,
                delay=0 if show_progress_bar else 2,
            ) as progress:
                for batch in _version_1(old, new, zlib.crc32(line.encode())):
                    _copy(new, batch)
                    progress.update(len(batch))
            if len(new) != total:
                raise StoreCorruptError(f"{path}: {total} documents, of which {len(new)} could be read")
    _take_place(path, Path(f"{path}.upgrading"))
    return int(total)


def _version_1(old: sqlite3.Connection, new: SqliteStore, seed: int) -> Iterator[list[Change]]:
    """Checked rows of a store of version 1, signed as those of this version."""
    form = new._format
    before = RowFormat(new.fingerprint)
    before.seed = seed  # rows were signed with the fingerprint as it was written then
    key = -1
    while rows := old.execute(
        "SELECT key, id, content_hash, n_tokens, crc, text, pooled FROM documents WHERE key > ? ORDER BY key LIMIT ?",
        (key, COPY_ROWS),
    ).fetchall():
        changes = []
        for key, *columns in rows:
            id_, content_hash, n_tokens, crc, text, pooled = columns
            sizes = f"{-1 if text is None else len(text)}\0{-1 if pooled is None else len(pooled)}"
            found = zlib.crc32(f"{id_}\0{content_hash}\0{n_tokens}\0{sizes}".encode("utf-8", "surrogateescape"), seed)
            if zlib.crc32(pooled or b"", zlib.crc32((text or "").encode("utf-8", "surrogateescape"), found)) != crc:
                raise StoreCorruptError(
                    f"document {id_!r}: its text or pooled vector is damaged (CRC-32 does not match)"
                )
            row = old.execute(_STATE, (key,)).fetchone()
            if row is None:
                raise StoreCorruptError(f"document {id_!r}: its states are missing")
            state = StateRow._make(row)
            before.check_state(state, id_)
            light = form.signed(DocumentRow(id_, content_hash, n_tokens, 0, text, None, pooled))
            changes.append(Change(Entry(id_, None, False, False, None), form.signed_state(state), light))
        yield changes


def salvage_sqlite(store: SqliteStore) -> list[str] | None:
    """Copy what can be read of a store whose file is damaged to a new one, which takes its place.

    A document whose light row is sound but whose states cannot be read is copied with states that fail their check, so
    that ``repair`` finds it and encodes it anew.

    Returns:
        Ids of the documents that are lost, or their places where not even those can be read; None for a file that is
        sound, and left alone.

    Raises:
        StoreLockedError: If somebody else has the store open.
    """
    store._refuse_uncommitted("repairing")
    try:
        if not structure_problems(store):
            return None
    except StoreCorruptError:
        pass  # damaged so that it cannot even be checked
    target = Path(f"{store.path}.repairing")
    for file in target.parent.glob(f"{target.name}*"):
        file.unlink()
    lost: list[str] = []
    with store._locked(), SqliteStore(target, store.fingerprint, read_only=False, settings=store.settings) as new:
        batch: list[Change] = []
        for change in _readable(store, lost):
            batch.append(change)
            if len(batch) == COPY_ROWS:
                _copy(new, batch)
                batch = []
        _copy(new, batch)
        if _wants_ann(store):
            with new._transaction() as writer:
                want_ann(writer)
                new._end(commit=True)
    store._close_idle()
    with store._locked():
        _take_place(store.path, target)
    return lost


def _wants_ann(store: SqliteStore) -> bool:
    """Whether a damaged store has an approximate index; not where even that cannot be read."""
    with closing(connect(store.path, "ro")) as connection:
        try:
            return has_ann(connection)
        except sqlite3.Error:
            return False


def restore_sqlite(path: Path, copy: Path) -> int:
    """Put a copy of a store in its place; see ``engines.restore_store``."""
    lock = writers_lock(path)
    acquire(lock, path, LOCK_SECONDS)
    try:
        made = Path(f"{path}.restoring")
        for file in path.parent.glob(f"{made.name}*"):
            file.unlink()
        with SqliteStore(copy, None, read_only=True) as store:
            store.backup(str(made))
            documents = len(store)
        _take_place(path, made)
    finally:
        lock.release()
    return documents


def _readable(store: SqliteStore, lost: list[str]) -> Iterator[Change]:
    """Each document that can be read, key by key: a page that cannot be read ends a scan, not a look at the next key."""
    with closing(connect(store.path, "ro")) as connection:
        last = 0
        for table in ("documents", "states"):
            try:
                last = max(last, connection.execute(f"SELECT coalesce(max(key), 0) FROM {table}").fetchone()[0])
            except sqlite3.Error:
                continue
        for key in range(1, last + 1):
            light = None
            try:
                light = connection.execute(
                    "SELECT d.id, d.content_hash, d.n_tokens, d.crc, d.text, m.value, d.pooled FROM documents AS d "
                    "LEFT JOIN metadata AS m ON m.key = d.key WHERE d.key = ?",
                    (key,),
                ).fetchone()
                if light is None:
                    continue
                row = DocumentRow._make(light)
                store._format.check_document(row)
            except (sqlite3.Error, StoreCorruptError):
                lost.append(str(light[0]) if light else f"in row {key}")
                continue
            try:
                values = connection.execute(_STATE, (key,)).fetchone()
                state = StateRow._make(values or (row.id, row.content_hash, row.n_tokens, 0, b"", b"", b""))
            except sqlite3.Error:
                state = StateRow(row.id, row.content_hash, row.n_tokens, 0, b"", b"", b"")
            yield Change(Entry(row.id, None, False, False, None), state, row)


def _copy(new: SqliteStore, batch: list[Change]) -> None:
    """Write rows that the new store does not have yet, in one commit."""
    entries = new._entries([change.entry.id for change in batch])
    lacking = [change for change, entry in zip(batch, entries, strict=True) if entry.content_hash is None]
    if lacking:
        new._write(lacking)
        new.commit()


def _take_place(path: Path, copy: Path) -> None:
    """Put a closed store in the place of another one.

    Raises:
        StoreLockedError: If somebody has the other one open: what they have in memory would be read into this one.
    """
    if path.exists():
        _refuse_open(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with translated(copy), closing(connect(copy, "rw")) as new:  # takes what waits in its WAL into the file
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for made in ("vectors", "ann"):
        for file in path.parent.glob(f"{path.name}-{made}-*"):
            file.unlink()
        for file in path.parent.glob(f"{copy.name}-{made}-*"):
            os.replace(file, path.with_name(path.name + file.name.removeprefix(copy.name)))
    os.replace(copy, path)
    sync(path.parent)
    Path(f"{copy}.lock").unlink(missing_ok=True)


def _refuse_open(path: Path) -> None:
    """Take a store out of the mode in which several may have it open."""
    with translated(path), closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as old:
        try:
            mode = old.execute("PRAGMA journal_mode = DELETE").fetchone()  # only while nobody else has it open
        except sqlite3.OperationalError as error:
            raise StoreLockedError(f"{path}: somebody has it open; close it and run this again ({error})") from error
        except sqlite3.DatabaseError:
            mode = ("delete",)  # damaged beyond that; its WAL goes with it
        if mode != ("delete",):
            raise StoreLockedError(f"{path}: somebody has it open; close it and run this again")
