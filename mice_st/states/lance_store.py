"""Document states in Lance: a local folder, ``s3://`` or ``gs://``, several writers at once. Needs the extra ``lance``.

Rows and their CRC-32 are those of the SQLite store: a reader of Lance's files checks no checksum of its own, so ours is
mandatory. Every commit makes one new version; ``lance_reader.py`` says which one is read, ``lance_commit.py`` how two
writers stay apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .engine import Change, Entry
from .errors import StoreError, StoreNotFoundError
from .identity import Fingerprint, StoreSettings, Tokenizer
from .lance_commit import (
    LOCK_SECONDS,
    create_dataset,
    replace_rows,
    taking_turns,
    until_it_follows,
    write_rows,
)
from .lance_files import (
    DOCUMENT_COLUMNS,
    STATE_COLUMNS,
    Identity,
    as_table,
    new_identity,
    open_dataset,
    read_identity,
    read_table,
    select_rows,
    translated,
)
from .lance_migration import LanceMigration, drop_migration
from .lance_reader import LanceReader
from .lance_upkeep import compact_lance, copy_lance, index_new_rows, rebuild_words
from .lance_versions import NOTHING, Uncommitted
from .migration import Migration
from .reports import CompactReport
from .rows import DocumentRow, StateRow, read_pooled

logger = logging.getLogger(__name__)

KEEP_VERSIONS = timedelta(days=7)  # longer than any reader lives; Lance itself keeps unfinished writes for as long


class LanceStore(LanceReader):
    """Document states in a Lance dataset; ``Store`` documents each method.

    Any number of objects, threads and processes may write. What is put or deleted waits in memory for ``commit``; of two
    writers that put the same id the later commit wins, and a ``commit`` that fails may be called again. Open it anew
    after a fork.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        fingerprint: What the states must have been made by; None accepts what the store holds, and cannot create one.
        read_only: Whether only to read.
        settings: What a new store keeps beside its fingerprint.
        storage_options: Credentials and endpoints, as Lance names them.
        keep_versions: Age at which ``compact`` removes old versions. A call that reads one of them meanwhile starts anew
            with the latest.
        lock_timeout: Seconds to wait for other writers of a local store.

    Raises:
        StoreNotFoundError: If there is no store, and ``read_only`` is set or there is no fingerprint to create it with.
        StoreMismatchError: If the states were made by something else.
        StoreVersionError: If another version of the format wrote it.
        StoreCorruptError: If this is no store, or a damaged one.
    """

    def __init__(
        self,
        uri: str | PathLike[str],
        fingerprint: Fingerprint | None,
        *,
        read_only: bool,
        settings: StoreSettings | None = None,
        storage_options: dict[str, str] | None = None,
        keep_versions: timedelta = KEEP_VERSIONS,
        lock_timeout: float = LOCK_SECONDS,
    ) -> None:
        super().__init__(fspath(uri), read_only=read_only, storage_options=storage_options)
        self._keep_versions = keep_versions
        self._lock_timeout = lock_timeout
        wanted = settings or StoreSettings()
        try:
            self._dataset = open_dataset(self.uri, storage_options)
        except StoreNotFoundError:
            if fingerprint is None or read_only:
                raise
            folder = Path(self.uri).parent
            if "://" not in self.uri and not folder.is_dir():
                raise StoreNotFoundError(f"{folder}: no such folder") from None
            with translated(self.uri, "creating"):
                self._dataset = create_dataset(self.uri, new_identity(fingerprint, wanted), storage_options)
        self._identity = read_identity(self._dataset, self.uri)
        self._bind(self._identity.fingerprint, self._identity.settings, fingerprint, wanted.model)

    # Changes

    def _write(self, changes: Sequence[Change]) -> None:
        self._check_widths([change.document for change in changes])
        new = {entry.id: (state, document) for entry, state, document in changes}
        self._change(
            lambda now: Uncommitted(
                {**now.puts, **new},
                now.deletes - new.keys(),
                {id_: line for id_, line in now.metadata.items() if id_ not in new},
            )
        )

    def _check_widths(self, documents: Sequence[DocumentRow]) -> None:
        """Pooled vectors must be as wide as those that the store has.

        Raises:
            ValueError: If one is not; names it.
        """
        with_vector = [(row.id, read_pooled(row.pooled).size) for row in documents if row.pooled is not None]
        if not with_vector:
            return
        known = next((light.pooled for _, light in self._uncommitted.puts.values() if light.pooled is not None), None)
        if known is None:
            found = self._read(lambda d: read_table(d, self.uri, ["pooled"], filter="pooled IS NOT NULL", limit=1))
            known = found["pooled"][0].as_py() if found.num_rows else None
        width = with_vector[0][1] if known is None else read_pooled(known).size
        for id_, size in with_vector:
            if size != width:
                raise ValueError(f"document {id_!r}: pooled vector of {size} values, others have {width}")

    def _remove(self, entries: Sequence[Entry]) -> None:
        gone = {entry.id for entry in entries}
        self._change(
            lambda now: Uncommitted(
                {id_: rows for id_, rows in now.puts.items() if id_ not in gone},
                now.deletes | gone,
                {id_: line for id_, line in now.metadata.items() if id_ not in gone},
            )
        )

    def _set_metadata(self, entries: Sequence[Entry], metadata: Sequence[str | None]) -> None:
        new = {entry.id: line for entry, line in zip(entries, metadata, strict=True)}

        def change(now: Uncommitted) -> Uncommitted:
            puts = dict(now.puts)
            for id_ in new.keys() & puts.keys():
                state, light = puts[id_]
                puts[id_] = (state, self._format.signed(light._replace(metadata=new[id_])))
            on_disk = {id_: line for id_, line in new.items() if id_ not in puts}
            return Uncommitted(puts, now.deletes, {**now.metadata, **on_disk})

        self._change(change)

    def commit(self) -> None:
        """Make everything put and deleted so far one new version.

        Raises:
            StoreMovedError: If the store was moved to another model meanwhile; what was put waits on, and does not fit.
            StoreLockedError: If other writers were faster again and again.
        """
        self._check_writable()
        if not any(self._uncommitted):
            return
        written: dict[Tokenizer, list[Any]] = {}

        def attempt(newest: Any) -> None:
            puts, deletes, metadata = self._uncommitted
            identity = read_identity(newest, self.uri)
            tokenizer = identity.settings.tokenizer
            if tokenizer not in written:
                written[tokenizer] = self._write_rows(list(puts.values()), identity)
            changed = self._changed_rows(newest, metadata)
            ids = [*puts, *deletes, *(state.id for state, _ in changed)]
            fragments = [*written[tokenizer], *self._write_rows(changed, identity)]
            replace_rows(newest, ids, fragments, identity, self._options)

        with self._writing, taking_turns(self.uri, self._lock_timeout):
            until_it_follows(self.uri, self._newest, attempt, "committing")
            self._uncommitted = NOTHING
            with translated(self.uri, "indexing"):
                index_new_rows(self)

    def _write_rows(self, rows: Sequence[tuple[StateRow, DocumentRow]], identity: Identity) -> list[Any]:
        return write_rows(self.uri, as_table(rows, identity), identity, self._options) if rows else []

    def _changed_rows(self, dataset: Any, metadata: Mapping[str, str | None]) -> list[tuple[StateRow, DocumentRow]]:
        """Whole rows, as they are in a version, with the metadata that wait for them; without documents that are gone."""
        columns = [*STATE_COLUMNS, *DOCUMENT_COLUMNS[3:]]
        found = select_rows(dataset, self.uri, list(metadata), {name: name for name in columns})
        rows = []
        for values in found.values():
            state = StateRow._make(values[: len(STATE_COLUMNS)])
            light = DocumentRow._make((*values[:3], *values[len(STATE_COLUMNS) :]))
            self._format.check_state(state, state.id)
            rows.append((state, self._with_metadata(light, metadata)))
        return rows

    # The whole store

    def _refuse_uncommitted(self, what: str) -> None:
        self._check_writable()
        if any(self._uncommitted):
            raise StoreError(f"{self.uri}: commit before {what}")

    def compact(self) -> CompactReport:
        """Merge small files, index ids and words, and remove versions older than ``keep_versions``.

        Raises:
            StoreLockedError: If other writers of an object store were at work each time it was tried; those of a local
                store wait.
        """
        self._refuse_uncommitted("compacting")
        with self._writing, taking_turns(self.uri, self._lock_timeout):
            return compact_lance(self, self._keep_versions)

    def rebuild_first_stage(self, tokenizer: str | None = None) -> None:
        """Write all rows anew, each with the words of its text, and commit. Vectors are read from the rows themselves."""
        self._refuse_uncommitted("rebuilding the first stage")
        with self._writing, taking_turns(self.uri, self._lock_timeout):
            rebuild_words(self, tokenizer)

    def backup(self, path: str) -> None:
        """Write a copy of the latest commit, compacted; ``path`` may be an object store's."""
        self._check_open()
        copy_lance(self, path)

    def begin_migration(self, fingerprint: Fingerprint, settings: StoreSettings) -> Migration:
        """Begin to move the store to another model, or go on with it; new states wait in ``<uri>.next``."""
        self._refuse_uncommitted("a migration")
        return LanceMigration(self, fingerprint, settings, self._lock_timeout)

    def abandon_migration(self) -> None:
        """Remove what a migration that was begun has written."""
        self._refuse_uncommitted("a migration")
        drop_migration(self.uri, self._options)

    def close(self) -> None:
        """Let go of the dataset; what is uncommitted is dropped, with a warning. Closing twice is allowed."""
        if not self._closed and any(self._uncommitted):
            logger.warning("%s: closed with uncommitted changes, which are dropped", self.uri)
        self._closed = True
        self._uncommitted = NOTHING
        self._vectors.forget()
        self._dataset = None
