"""Reading a Lance store: documents by id, all of them, and those that a search finds; with what its writer has not committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from .engine import Entry
from .errors import StoreCorruptError, StoreNotFoundError, UnknownDocumentError
from .lance_files import (
    DOCUMENT_COLUMNS,
    ROW_COLUMNS,
    ROWS_PER_BATCH,
    STATE_COLUMNS,
    as_columns,
    as_rows,
    select_rows,
    translated,
)
from .lance_vectors import VectorCache
from .lance_vectors import search as search_vectors
from .lance_verify import damaged_documents, verify_rows
from .lance_versions import LanceVersions, Uncommitted
from .lance_words import NOTHING_PENDING, Pending, Totals, WordSearch, read_totals
from .packed import PackedStates
from .put_checks import check_ids
from .reports import DamagedDocument, VerifyReport
from .rows import DocumentRow, Packer, StateRow
from .where import Where

_ENTRY_COLUMNS = {
    "id": "id",
    "content_hash": "content_hash",
    "text": "text IS NOT NULL",
    "pooled": "pooled IS NOT NULL",
}


class LanceReader(LanceVersions):
    """The reading half of ``LanceStore``; ``Store`` documents each method.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        read_only: Whether only to read.
        storage_options: Credentials and endpoints, as Lance names them.
    """

    def __init__(self, uri: str, *, read_only: bool, storage_options: dict[str, str] | None) -> None:
        super().__init__(uri, read_only=read_only, storage_options=storage_options)
        self._vectors = VectorCache(uri)
        self._totals: tuple[int, Totals] | None = None

    # Documents by id

    def _select(self, dataset: Any, ids: Sequence[str], columns: Mapping[str, str]) -> dict[str, tuple]:
        return select_rows(dataset, self.uri, ids, columns)

    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order of ``ids``; all from one version."""
        check_ids(ids)
        rows = self._read(lambda dataset: self._states(dataset, ids))
        if unknown := [id_ for id_ in ids if id_ not in rows]:
            raise UnknownDocumentError(unknown)
        return self._pack(ids, rows)

    def get_known(self, ids: Sequence[str]) -> tuple[list[str], PackedStates]:
        """As ``get``, but documents that the store does not have are left out."""
        check_ids(ids)
        rows = self._read(lambda dataset: self._states(dataset, ids))
        known = [id_ for id_ in ids if id_ in rows]
        return known, self._pack(known, rows)

    def _states(self, dataset: Any, ids: Sequence[str]) -> dict[str, StateRow]:
        puts, deletes, _ = self._pinned.uncommitted
        rows = {id_: puts[id_][0] for id_ in ids if id_ in puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in deletes]
        found = self._select(dataset, on_disk, {name: name for name in STATE_COLUMNS})
        return rows | {id_: StateRow._make(row) for id_, row in found.items()}

    def _pack(self, ids: Sequence[str], rows: Mapping[str, StateRow]) -> PackedStates:
        packer = Packer(self._format)
        for id_ in ids:
            try:
                self._format.check_state(rows[id_], id_)
            except StoreCorruptError as error:
                raise StoreCorruptError(f"{self.uri}: {error}") from error
            packer.add(rows[id_])
        return packer.packed()

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        check_ids(ids)
        with self.reading():
            stored = self._read(lambda dataset: self._select(dataset, ids, _ENTRY_COLUMNS))
            puts, deletes, _ = self._pinned.uncommitted
        entries = []
        for id_ in ids:
            entry = Entry(id_, None, False, False, None)
            if id_ in puts:
                light = puts[id_][1]
                entry = Entry(id_, light.content_hash, light.text is not None, light.pooled is not None, None)
            elif id_ in stored and id_ not in deletes:
                entry = Entry._make((*stored[id_], None))
            entries.append(entry)
        return entries

    def __len__(self) -> int:
        def count(dataset: Any) -> int:
            uncommitted = self._pinned.uncommitted
            with translated(self.uri, "reading"):
                stored = int(dataset.count_rows())
            replaced = self._select(dataset, sorted(uncommitted.hidden), {"id": "id"})
            return stored - len(replaced) + len(uncommitted.puts)

        return self._read(count)

    # All documents

    def _scan(self, dataset: Any, columns: list[str]) -> Iterator[tuple]:
        """Rows of all documents on disk, ``id`` first; after a clean-up under way, the rest as the latest version has it."""
        seen: set[str] = set()
        done: set[str] = set()  # before the clean-up
        while True:
            try:
                for batch in self._batches(dataset, columns):
                    for row in as_rows(batch, columns):
                        if row[0] not in done:
                            yield row
                            seen.add(row[0])
                return
            except StoreNotFoundError:
                newest = self._newest(anew=True)
                if newest.version == dataset.version:
                    raise
                dataset, done = newest, set(seen)

    def _batches(self, dataset: Any, columns: list[str]) -> Iterator[Any]:
        with translated(self.uri, "reading"):
            batches = iter(dataset.to_batches(columns=columns, batch_size=ROWS_PER_BATCH))
        while True:
            with translated(self.uri, "reading"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _rows(self, columns: list[str]) -> Iterator[tuple]:
        """Rows of all documents: those on disk in Lance's order, then those that wait."""
        with self.reading():
            dataset, uncommitted = self._pinned.dataset, self._pinned.uncommitted
        return self._rows_of(dataset, uncommitted, columns)

    def _rows_of(self, dataset: Any, uncommitted: Uncommitted, columns: list[str]) -> Iterator[tuple]:
        hidden = uncommitted.hidden
        yield from (row for row in self._scan(dataset, columns) if row[0] not in hidden)
        for state, light in uncommitted.puts.values():
            values = as_columns(state, light, self._settings.tokenizer)
            yield tuple(values[column] for column in columns)

    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        if ids is None:
            with self.reading():
                metadata = self._pinned.uncommitted.metadata
                rows_of_all = self._rows(DOCUMENT_COLUMNS)
            return (self._with_metadata(DocumentRow._make(values), metadata) for values in rows_of_all)
        check_ids(ids)
        rows = self._read(lambda dataset: self._light(dataset, ids))
        if unknown := [id_ for id_ in ids if id_ not in rows]:
            raise UnknownDocumentError(unknown)
        return (rows[id_] for id_ in ids)

    def _light(self, dataset: Any, ids: Sequence[str]) -> dict[str, DocumentRow]:
        puts, deletes, metadata = self._pinned.uncommitted
        rows = {id_: puts[id_][1] for id_ in ids if id_ in puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in deletes]
        found = self._select(dataset, on_disk, {name: name for name in DOCUMENT_COLUMNS})
        return rows | {id_: self._with_metadata(DocumentRow._make(row), metadata) for id_, row in found.items()}

    def _with_metadata(self, row: DocumentRow, metadata: Mapping[str, str | None]) -> DocumentRow:
        """A row on disk with the metadata that wait for it, if it is sound."""
        if row.id not in metadata:
            return row
        self._format.check_document(row)
        return self._format.signed(row._replace(metadata=metadata[row.id]))

    # First stage

    def _pending(self, dataset: Any) -> Pending:
        """What the first stage has to take from memory instead of the disk."""
        uncommitted = self._pinned.uncommitted
        if not any(uncommitted):
            return NOTHING_PENDING
        changed = self._light(dataset, list(dict.fromkeys([*uncommitted.puts, *uncommitted.metadata])))
        return Pending(frozenset([*uncommitted.hidden, *changed]), list(changed.values()))

    def _totals_of(self, dataset: Any) -> Totals:
        kept = self._totals
        if kept is None or kept[0] != dataset.version:
            kept = self._totals = (dataset.version, read_totals(dataset, self.uri))
        return kept[1]

    def search_words(self, query: str, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by BM25, by the figures of the version that is read."""

        def search(dataset: Any) -> dict[str, float]:
            totals, pending = self._totals_of(dataset), self._pending(dataset)
            return WordSearch(dataset, self.uri, self._settings.tokenizer, totals, pending).best(query, top_k, where)

        return self._read(search)

    def search_vectors(self, vector: Tensor, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by the cosine of their pooled vectors; every one of them is looked at."""
        return self._read(
            lambda dataset: search_vectors(
                dataset, self.uri, self._vectors, vector, top_k, where, self._pending(dataset)
            )
        )

    # Checking

    def verify(self) -> VerifyReport:
        """Read and check every row, and that its words are those of its text; what waits for a commit too."""
        return self._verify_report(*verify_rows(self._rows(ROW_COLUMNS), self._format, self._settings.tokenizer))

    def damaged(self) -> list[DamagedDocument]:
        """Documents whose rows are not as they were written, or that have two."""
        return damaged_documents(self._rows(ROW_COLUMNS), self._format, self._settings.tokenizer)
