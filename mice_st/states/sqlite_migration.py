"""Moving a SQLite store to another model while it is in use: new states in tables beside the old ones, then one commit.

A document that changes gets a new key, and keys only grow. One pass upwards therefore meets every document, and what was
made for a key that is gone is left out at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm.auto import tqdm

from .errors import StoreError
from .identity import Fingerprint, StoreSettings
from .migration import Migration
from .rows import DocumentRow, RowFormat
from .sqlite_meta import write_meta
from .sqlite_writer import SqliteWriter

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates

_TABLES = """
CREATE TABLE next_meta (fingerprint TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE next_documents (
    key INTEGER PRIMARY KEY, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, pooled BLOB
);
CREATE TABLE next_states (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL,
    input_ids BLOB NOT NULL, scales BLOB NOT NULL, payload BLOB NOT NULL
);
"""


class SqliteMigration(Migration):
    """New states for a store that goes on answering from the old ones; ``Migration`` documents each method.

    Args:
        store: Open for writing, with nothing uncommitted.
        fingerprint: Of the new states.
        settings: Of the store, once it is moved.

    Raises:
        StoreError: If a document was put without its text; names one.
    """

    def __init__(self, store: SqliteWriter, fingerprint: Fingerprint, settings: StoreSettings) -> None:
        self._store, self._fingerprint, self._settings = store, fingerprint, settings
        self._format = RowFormat(fingerprint)
        self._keys: dict[str, int] = {}
        wanted = (fingerprint.to_json(), settings.to_json())
        with store._transaction() as writer:
            lacking = writer.execute("SELECT id FROM documents WHERE text IS NULL LIMIT 1").fetchone()
            if lacking is not None:
                raise StoreError(
                    f"document {lacking[0]!r} was put without its text: it cannot be encoded by another model"
                )
            if not _has_migration(writer) or writer.execute("SELECT * FROM next_meta").fetchone() != wanted:
                drop_migration(writer)
                for statement in _TABLES.split(";\n"):
                    writer.execute(statement)
                writer.execute("INSERT INTO next_meta VALUES (?, ?)", wanted)
            self._done: int = writer.execute("SELECT coalesce(max(key), 0) FROM next_documents").fetchone()[0]
            store._end(commit=True)

    def pending(self, limit: int) -> list[DocumentRow]:
        """Documents that have no new states yet."""
        rows = self._store.documents_after(self._done, limit)
        for _, row in rows:
            self._store._format.check_document(row)
        self._keys = {row.id: key for key, row in rows}
        return [row for _, row in rows]

    def put(
        self,
        rows: Sequence[DocumentRow],
        documents: Sequence[DocumentStates],
        hashes: Sequence[str],
        pooled: Tensor | None,
    ) -> None:
        """Keep new states durably."""
        keys = [self._keys[row.id] for row in rows]
        with self._store._transaction() as writer:
            for place, (key, row) in enumerate(zip(keys, rows, strict=True)):
                state = self._format.state_row(row.id, hashes[place], documents[place])
                light = self._format.document_row(state, None, None, None if pooled is None else pooled[place])
                writer.execute(
                    "INSERT INTO next_documents SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM documents WHERE key = ?)",
                    (key, state.content_hash, state.n_tokens, light.pooled, key),
                )
                writer.execute(
                    "INSERT INTO next_states SELECT ?, ?, ?, ?, ?, ?, ?, ? "
                    "WHERE EXISTS (SELECT 1 FROM next_documents WHERE key = ?)",
                    (key, *state, key),
                )
            self._store._end(commit=True)
        self._done = max(keys, default=self._done)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While it lasts, others wait before they change the store."""
        with self._store._writing, self._store._locked():
            yield

    def finish(self) -> bool:
        """Put the new states in place of the old ones, in one commit."""
        store = self._store
        with store._transaction() as writer:
            if writer.execute("SELECT 1 FROM documents WHERE key > ? LIMIT 1", (self._done,)).fetchone():
                store._end(commit=False)
                return False
            rows = store.documents_by_key()
            for key, row in tqdm(rows, "Moving", len(store), unit="document", delay=2, leave=False):
                store._format.check_document(row)
                new = writer.execute(
                    "SELECT content_hash, n_tokens, pooled FROM next_documents WHERE key = ?", (key,)
                ).fetchone()
                if new is None:
                    raise StoreError(f"document {row.id!r} has no new states")
                moved = self._format.signed(row._replace(content_hash=new[0], n_tokens=new[1], pooled=new[2]))
                writer.execute(
                    "UPDATE documents SET content_hash = ?, n_tokens = ?, crc = ?, pooled = ? WHERE key = ?",
                    (moved.content_hash, moved.n_tokens, moved.crc, moved.pooled, key),
                )
            writer.execute("DELETE FROM next_states WHERE key NOT IN (SELECT key FROM documents)")
            writer.execute("DROP TABLE states")
            writer.execute("ALTER TABLE next_states RENAME TO states")
            drop_migration(writer)
            write_meta(writer, self._fingerprint, self._settings)
            store._rebuild_vectors(writer)
            store._count_change(writer)
            store._end(commit=True)
            store._bind(self._fingerprint, self._settings, None)
        store._remove_old_files()
        return True

    def abandon(self) -> None:
        """Remove the new states."""
        with self._store._transaction() as writer:
            drop_migration(writer)
            self._store._end(commit=True)


def _has_migration(writer: sqlite3.Connection) -> bool:
    return writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'next_meta'").fetchone() is not None


def drop_migration(writer: sqlite3.Connection) -> None:
    """Remove the tables of a migration, inside a transaction."""
    for table in ("next_meta", "next_documents", "next_states"):
        writer.execute(f"DROP TABLE IF EXISTS {table}")
