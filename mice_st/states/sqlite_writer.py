"""Writing a SQLite store: transactions under a lock, rows, and what is made from the rows in the same commit."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .engine import Change, Entry
from .errors import StoreCorruptError, StoreError
from .identity import StoreSettings
from .rows import DocumentRow, read_pooled
from .sqlite_ann import ann_definition, ann_file, forget_ann, has_ann, make_ann
from .sqlite_files import acquire, connect, sync, translated, words_schema, write_file, writers_lock
from .sqlite_meta import read_counters, write_meta
from .sqlite_reader import SqliteReader
from .sqlite_search import VectorsDefinition, checked_vector, slots_from_rows, vector_file, vectors_definition
from .words import indexed_text

DEAD_SLOTS = 1000  # from here on, a quarter of dead slots makes the file of vectors anew


class SqliteWriter(SqliteReader):
    """The writing half of ``SqliteStore``; ``Store`` documents each method.

    Args:
        path: The database.
        read_only: Whether only to read.
        threads: Threads that read large batches.
        lock_timeout: Seconds to wait for another writer.
    """

    def __init__(self, path: Path, *, read_only: bool, threads: int, lock_timeout: float) -> None:
        super().__init__(path, read_only=read_only, threads=threads)
        self._lock_timeout = lock_timeout
        self._lock = None if read_only else writers_lock(self.path)
        self._stale_words = False  # of a transaction that removes a text that it cannot read
        self._has_committed = False
        self._changed = False  # of a transaction that has something to commit

    @contextmanager
    def _locked(self) -> Iterator[None]:
        assert self._lock is not None  # as in every store that is open for writing
        acquire(self._lock, self.path, self._lock_timeout)
        try:
            yield
        finally:
            self._lock.release()

    # Transactions

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The writer inside a transaction, which is begun where there is none, and dropped if the block fails."""
        self._check_writable()
        with self._writing, translated(self.path):
            try:
                if self._writer is None:
                    self._begin()
                assert self._writer is not None
                yield self._writer
            except BaseException:
                self._end(commit=False)
                raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody else writes between what is read here and what is changed by it."""
        self._check_writable()
        with self._writing, translated(self.path):
            began = self._writer is None
            if began:
                self._begin()
            try:
                yield
            finally:
                if began and not self._changed:
                    self._end(commit=False)  # nothing to commit: others may write

    def _begin(self) -> None:
        assert self._lock is not None
        acquire(self._lock, self.path, self._lock_timeout)
        self._changed = self._stale_words = False
        try:
            self._writer = connect(self.path, "rw")
            if self._writer.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raise StoreError(f"{self.path}: this file system does not support SQLite's WAL")
            self._writer.execute("BEGIN IMMEDIATE")
            self._check_meta(self._writer)
        except BaseException:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._lock.release()
            raise

    def _end(self, commit: bool) -> None:
        """End the transaction, if there is one, and let go of the lock."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        assert self._lock is not None
        try:
            if commit:
                writer.execute("COMMIT")
                self._has_committed = True
            else:
                self._search.forget()
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
        finally:
            try:
                writer.close()
            finally:
                self._lock.release()

    def commit(self) -> None:
        """Make everything put and deleted so far durable: it is on the disk when this returns."""
        self._check_writable()
        if self._writer is None:
            return
        with self._transaction() as writer:
            if self._stale_words:
                self._rebuild_words(writer, None)
            dead = writer.execute("SELECT count(*) FROM dead_slots").fetchone()[0]
            slots = read_counters(writer).slots
            replaced = dead >= max(DEAD_SLOTS, slots / 4) and self._rebuild_vectors(writer)
            self._end(commit=True)
        if replaced:
            self._remove_old_files()

    # Changes

    def _write(self, changes: Sequence[Change]) -> None:
        self._check_widths(changes)
        with self._transaction() as writer:
            self._forget(writer, [change.entry for change in changes if change.entry.key is not None])
            first = read_counters(writer).next_key
            keys = range(first, first + len(changes))
            writer.executemany(
                "INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((key, *change.state) for key, change in zip(keys, changes, strict=True)),
            )
            insert_documents(writer, zip(keys, (change.document for change in changes), strict=True))
            writer.execute("UPDATE counters SET next_key = ?", (first + len(changes),))
            self._add_words(writer, zip(keys, (change.document.text for change in changes), strict=True))
            self._add_vectors(writer, [(k, c.document) for k, c in zip(keys, changes, strict=True)])
            self._count_change(writer)

    def _check_widths(self, changes: Sequence[Change]) -> None:
        """Refuse vectors of another width, before anything is written."""
        replaced = [change.entry.key for change in changes if change.entry.key is not None]
        with self._reader() as reader:
            row = reader.execute(
                "SELECT pooled FROM documents WHERE pooled IS NOT NULL AND key NOT IN (SELECT value FROM json_each(?)) LIMIT 1",
                (json.dumps(replaced),),
            ).fetchone()
        width = None if row is None else checked_vector(row[0], 0).size
        for change in changes:
            if change.document.pooled is None:
                continue
            size = read_pooled(change.document.pooled).size
            width = size if width is None else width
            if size != width:
                raise ValueError(f"document {change.entry.id!r}: pooled vector of {size} values, others have {width}")

    def _remove(self, entries: Sequence[Entry]) -> None:
        with self._transaction() as writer:
            self._forget(writer, entries)
            self._count_change(writer)

    def _set_metadata(self, entries: Sequence[Entry], metadata: Sequence[str | None]) -> None:
        rows = list(self._documents([entry.id for entry in entries]))
        with self._transaction() as writer:
            for entry, row, line in zip(entries, rows, metadata, strict=True):
                crc = self._format.signed(row._replace(metadata=line)).crc
                writer.execute("UPDATE documents SET crc = ? WHERE key = ?", (crc, entry.key))
                writer.execute("DELETE FROM metadata WHERE key = ?", (entry.key,))
                if line is not None:
                    writer.execute("INSERT INTO metadata VALUES (?, ?)", (entry.key, line))
            self._count_change(writer)

    def _forget(self, writer: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        """Remove rows, and what was made from them."""
        if not entries:
            return
        keys = [(entry.key,) for entry in entries]
        for key, light in self.documents_of_keys([entry.key for entry in entries if entry.key is not None]):
            try:
                self._format.check_document(light)
                if light.text is not None:
                    text = indexed_text(light.text, self._settings.tokenizer)
                    writer.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (key, text))
            except StoreCorruptError:
                self._stale_words = True  # the index wants the text as it was given to it
        for table in ("states", "documents", "metadata"):
            writer.executemany(f"DELETE FROM {table} WHERE key = ?", keys)
        writer.executemany(
            "INSERT OR IGNORE INTO dead_slots VALUES (?)", [(entry.key,) for entry in entries if entry.has_pooled]
        )

    def _add_words(self, writer: sqlite3.Connection, texts: Iterable[tuple[int, str | None]]) -> None:
        tokenizer = self._settings.tokenizer
        writer.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((key, indexed_text(text, tokenizer)) for key, text in texts if text is not None),
        )

    def _add_vectors(self, writer: sqlite3.Connection, rows: Sequence[tuple[int, DocumentRow]]) -> None:
        """Write vectors behind those that are committed; the file is on the disk before the commit that counts them."""
        with_vector = [(key, row.id, read_pooled(row.pooled)) for key, row in rows if row.pooled is not None]
        if not with_vector:
            return
        definition = vectors_definition(writer)
        if (
            definition is None
            or definition.width != with_vector[0][2].size  # nobody has those any more
            or (definition.half and any(vector.dtype != np.float16 for *_, vector in with_vector))
        ):
            self._rebuild_vectors(writer)  # these are among the rows already
            return
        slots = read_counters(writer).slots
        file = vector_file(self.path, definition)
        if not file.holds(slots):
            self._rebuild_vectors(writer)
            return
        write_file(
            file.path,
            lambda: file.write(slots, [key for key, *_ in with_vector], np.stack([v for *_, v in with_vector])),
        )
        writer.execute("UPDATE counters SET slots = ?", (slots + len(with_vector),))

    def _count_change(self, writer: sqlite3.Connection) -> None:
        """Tell readers that what they keep in memory may be old, and that words, vectors and their index are not."""
        self._changed = True
        writer.execute("UPDATE counters SET commits = commits + 1")
        writer.execute(
            "UPDATE derived SET commits = (SELECT commits FROM counters) WHERE name IN ('words', 'vectors', 'ann')"
        )

    # What is made from the rows

    def _rebuild_vectors(self, writer: sqlite3.Connection) -> bool:
        """Make the file of vectors anew, under a new name, and its index where one is wanted.

        Returns:
            Whether there is a file that is not used any more, or a new one.
        """
        before = None
        with suppress(StoreCorruptError):  # what is made anew may be damaged
            before = vectors_definition(writer)
        dtypes = {
            row[0]
            for row in writer.execute("SELECT DISTINCT substr(pooled, 1, 1) FROM documents WHERE pooled IS NOT NULL")
        }
        writer.execute("DELETE FROM derived WHERE name = 'vectors'")
        forget_ann(writer)
        writer.execute("DELETE FROM dead_slots")
        writer.execute("UPDATE counters SET slots = 0")
        if not dtypes:
            return before is not None
        (blob,) = writer.execute(
            "SELECT pooled FROM documents WHERE pooled IS NOT NULL ORDER BY key LIMIT 1"
        ).fetchone()
        taken = [generation for _, generation in self._made_files()]
        generation = max([0 if before is None else before.generation, *taken]) + 1
        definition = VectorsDefinition(generation, checked_vector(blob, 0).size, dtypes == {b"e"})
        file = vector_file(self.path, definition)
        slots = slots_from_rows(writer, file)
        write_file(file.path, lambda: file.write(0, slots["key"].tolist(), slots["vector"]))
        if has_ann(writer):
            make_ann(writer, self.path, generation, slots)
        sync(self.path.parent)
        writer.execute("INSERT INTO derived VALUES ('vectors', ?, 0)", (json.dumps(definition),))
        writer.execute("UPDATE counters SET slots = ?", (len(slots),))
        return True

    def _rebuild_words(self, writer: sqlite3.Connection, tokenizer: str | None) -> None:
        if tokenizer is not None:
            settings = StoreSettings(self._settings.model, self._settings.overlap, tokenizer)  # type: ignore[arg-type]
            write_meta(writer, self._fingerprint, settings)
            writer.execute("UPDATE derived SET definition = ? WHERE name = 'words'", (json.dumps(tokenizer),))
            self._check_meta(writer)
        writer.execute("DROP TABLE IF EXISTS words")
        for statement in words_schema(self._settings.tokenizer).splitlines():
            writer.execute(statement)
        key = -1
        with tqdm(total=len(self), desc="Words", unit="document", delay=2, leave=False) as progress:
            while rows := writer.execute(
                "SELECT key, text FROM documents WHERE key > ? AND text IS NOT NULL ORDER BY key LIMIT 1000", (key,)
            ).fetchall():
                self._add_words(writer, rows)
                key = rows[-1][0]
                progress.update(len(rows))

    def rebuild_first_stage(self, tokenizer: str | None = None) -> None:
        """Make words and vectors anew from the rows, and commit."""
        self._refuse_uncommitted("rebuilding the first stage")
        with self._transaction() as writer:
            self._rebuild_words(writer, tokenizer)
            self._rebuild_vectors(writer)
            self._count_change(writer)
            self._end(commit=True)
        self._remove_old_files()

    def _made_files(self) -> list[tuple[Path, int]]:
        """Files of vectors and their indexes, half-made ones too, with their generations."""
        form = re.compile(rf"{re.escape(self.path.name)}-(?:vectors|ann)-(\d+)(?:\.new)?")
        matches = [(file, form.fullmatch(file.name)) for file in self.path.parent.iterdir()]
        return [(file, int(match[1])) for file, match in matches if match]

    def _remove_old_files(self) -> None:
        """Files that the latest commit does not name; who has one mapped keeps it until it lets go."""
        with self._locked(), self._reader() as reader:
            definition = vectors_definition(reader)
            used = set()
            if definition is not None:
                used.add(vector_file(self.path, definition).path)
                with suppress(ValueError):  # made from other vectors: not used
                    if ann_definition(reader, definition.generation) is not None:
                        used.add(ann_file(self.path, definition.generation))
            for file, _ in self._made_files():
                if file not in used:
                    with suppress(OSError):  # Windows keeps a mapped file; the next compaction removes it
                        file.unlink()

    def _refuse_uncommitted(self, what: str) -> None:
        self._check_writable()
        if self._writer is not None:
            raise StoreError(f"{self.path}: commit before {what}")


def insert_documents(writer: sqlite3.Connection, rows: Iterable[tuple[int, DocumentRow]]) -> None:
    """Insert light rows under their keys."""
    for key, row in rows:
        writer.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, row.id, row.content_hash, row.n_tokens, row.crc, row.text, row.pooled),
        )
        if row.metadata is not None:
            writer.execute("INSERT INTO metadata VALUES (?, ?)", (key, row.metadata))
