"""Moving a Lance store to another model while it is in use: new states in a dataset beside it, then one overwrite.

A row of the dataset beside it holds new states, no text, and as its metadata the CRC-32 of the states that it was made to
replace. So a document that has changed since is found to be pending again, and one that is gone is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .errors import StoreError, StoreNotFoundError
from .identity import Fingerprint, StoreSettings
from .lance_commit import create_dataset, overwrite, replace_rows, taking_turns, until_it_follows, write_rows
from .lance_extra import lance, pa
from .lance_files import (
    DOCUMENT_COLUMNS,
    STATE_COLUMNS,
    Identity,
    as_rows,
    as_table,
    open_dataset,
    read_identity,
    read_table,
    schema,
    select_rows,
    translated,
)
from .lance_reader import LanceReader
from .migration import Migration
from .rows import DocumentRow, RowFormat, StateRow

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class LanceMigration(Migration):
    """New states for a store that goes on answering from the old ones; ``Migration`` documents each method.

    Args:
        store: Open for writing, with nothing uncommitted.
        fingerprint: Of the new states.
        settings: Of the store, once it is moved.
        lock_timeout: Seconds to wait for other writers of a local store.

    Raises:
        StoreError: If a document was put without its text; names one.
    """

    def __init__(
        self, store: LanceReader, fingerprint: Fingerprint, settings: StoreSettings, lock_timeout: float
    ) -> None:
        self._store, self._options = store, store._options
        self._lock_timeout = lock_timeout
        self._uri = beside(store.uri)
        self._format = RowFormat(fingerprint)
        self._identity = Identity(fingerprint, settings, store._identity.name)
        self._queue: list[str] = []
        self._sources: dict[str, int] = {}  # id -> CRC-32 of the states that pending() read
        lacking = store._read(lambda d: read_table(d, store.uri, ["id"], filter="text IS NULL", limit=1))
        if lacking.num_rows:
            raise StoreError(
                f"document {lacking['id'][0].as_py()!r} was put without its text: no other model can encode it"
            )
        with translated(self._uri, "beginning a migration"):
            if self._begun() != self._identity:
                drop_migration(store.uri, self._options)
                create_dataset(self._uri, self._identity, self._options)

    def _begun(self) -> Identity | None:
        try:
            return read_identity(open_dataset(self._uri, self._options), self._uri)
        except StoreNotFoundError:
            return None

    def _beside(self) -> Any:
        """The newest version of the new states."""
        return open_dataset(self._uri, self._options)

    def _missing(self, dataset: Any) -> dict[str, int]:
        """Documents of a version that have no new states: id -> CRC-32 of their states."""
        made = dict(as_rows(read_table(self._beside(), self._uri, ["id", "metadata"]), ["id", "metadata"]))
        stored = as_rows(read_table(dataset, self._store.uri, ["id", "crc"]), ["id", "crc"])
        return {id_: crc for id_, crc in stored if made.get(id_) != str(crc)}

    def pending(self, limit: int) -> list[DocumentRow]:
        """Documents that have no new states yet."""
        if not self._queue:
            self._sources = self._store._read(self._missing)
            self._queue = list(self._sources)
        taken, self._queue = self._queue[:limit], self._queue[limit:]
        light = self._store._read(lambda dataset: self._store._light(dataset, taken))
        rows = [light[id_] for id_ in taken if id_ in light]
        for row in rows:
            self._store._format.check_document(row)
        return rows if rows or not taken else self.pending(limit)  # all of them deleted meanwhile: look again

    def put(
        self,
        rows: Sequence[DocumentRow],
        documents: Sequence[DocumentStates],
        hashes: Sequence[str],
        pooled: Tensor | None,
    ) -> None:
        """Keep new states durably."""
        new = []
        current = self._store._read(
            lambda dataset: select_rows(dataset, self._store.uri, [row.id for row in rows], {"id": "id", "crc": "crc"})
        )
        for place, row in enumerate(rows):
            if current.get(row.id, (row.id, None))[1] != self._sources[row.id]:
                continue
            state = self._format.state_row(row.id, hashes[place], documents[place])
            vector = None if pooled is None else pooled[place]
            new.append((state, self._format.document_row(state, None, str(self._sources[row.id]), vector)))
        if not new:
            return
        fragments = write_rows(self._uri, as_table(new, self._identity), self._identity, self._options)
        ids = [state.id for state, _ in new]
        until_it_follows(
            self._uri,
            self._beside,
            lambda newest: replace_rows(newest, ids, fragments, self._identity, self._options),
            "keeping new states",
        )

    def finish(self) -> bool:
        """Put the new states in place of the old ones, in one commit; every row is written anew for it."""
        store = self._store

        def attempt(newest: Any) -> bool:
            if self._missing(newest):
                return False
            fragments = write_rows(store.uri, self._moved(newest), self._identity, self._options, "overwrite")
            overwrite(store.uri, newest.version, self._identity, fragments, self._options)
            return True

        with store._writing, taking_turns(store.uri, self._lock_timeout):
            if not until_it_follows(store.uri, store._newest, attempt, "finishing a migration"):
                return False
            store._identity = self._identity
            store._bind(self._identity.fingerprint, self._identity.settings, None)
        drop_migration(store.uri, self._options)
        return True

    def _moved(self, dataset: Any) -> Any:
        """All rows of a version with their new states, as a reader of batches."""
        new_columns = {name: name for name in [*STATE_COLUMNS, "document_crc", "metadata", "pooled"]}

        def batches() -> Iterator[Any]:
            for batch in self._store._batches(dataset, DOCUMENT_COLUMNS):
                rows = [DocumentRow._make(values) for values in as_rows(batch, DOCUMENT_COLUMNS)]
                found = select_rows(self._beside(), self._uri, [row.id for row in rows], new_columns)
                moved = []
                for row in rows:
                    self._store._format.check_document(row)
                    values = found[row.id]
                    state, (crc, source, pooled) = StateRow._make(values[:-3]), values[-3:]
                    self._format.check_state(state, row.id)
                    kept = DocumentRow(row.id, state.content_hash, state.n_tokens, crc, None, source, pooled)
                    self._format.check_document(kept)
                    moved.append((state, self._format.signed(kept._replace(text=row.text, metadata=row.metadata))))
                yield from as_table(moved, self._identity).to_batches()

        return pa.RecordBatchReader.from_batches(schema(self._identity), batches())

    def abandon(self) -> None:
        """Remove the new states."""
        drop_migration(self._store.uri, self._options)


def beside(uri: str) -> str:
    """Where new states wait."""
    return f"{uri.rstrip('/')}.next"


def drop_migration(uri: str, storage_options: dict[str, str] | None) -> None:
    """Remove what a migration has written, if there is anything."""
    try:
        open_dataset(beside(uri), storage_options)
    except StoreNotFoundError:
        return
    with translated(beside(uri), "removing"):
        lance.LanceDataset.drop(beside(uri), storage_options=storage_options)
