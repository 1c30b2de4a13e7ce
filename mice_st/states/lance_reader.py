"""Reading a Lance store: one version for each call, or for all calls within ``reading()``.

Every commit makes a new version. A version whose files were removed meanwhile, which ``compact`` does with old ones, is
read again as the latest one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from torch import Tensor

from .errors import StoreCorruptError, StoreError, StoreMovedError, StoreNotFoundError, UnknownDocumentError
from .lance_files import (
    DOCUMENT_COLUMNS,
    ROW_COLUMNS,
    ROWS_PER_BATCH,
    STATE_COLUMNS,
    WORD_COLUMNS,
    Identity,
    as_columns,
    as_rows,
    open_dataset,
    read_identity,
    select_rows,
    translated,
)
from .lance_vectors import VectorCache
from .lance_vectors import search as search_vectors
from .lance_words import Pending, Totals, WordSearch, read_totals
from .packed import PackedStates
from .put_checks import check_ids
from .reports import DamagedDocument, VerifyReport
from .rows import DocumentRow, Packer, StateRow
from .store import Entry, Store
from .where import Where

T = TypeVar("T")

READ_TRIES = 5  # of calls that meet files which are removed meanwhile

_ENTRY_COLUMNS = {
    "id": "id",
    "content_hash": "content_hash",
    "text": "text IS NOT NULL",
    "pooled": "pooled IS NOT NULL",
}


class Pinned(threading.local):
    """The version that a thread reads, and how many ``reading()`` it is in."""

    dataset: Any = None
    depth: int = 0


class LanceReader(Store):
    """The reading half of ``LanceStore``; ``Store`` documents each method.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        read_only: Whether only to read.
        storage_options: Credentials and endpoints, as Lance names them.
    """

    _identity: Identity

    def __init__(self, uri: str, *, read_only: bool, storage_options: dict[str, str] | None) -> None:
        super().__init__(uri, read_only=read_only)
        self.uri = uri
        self._options = storage_options
        self._dataset: Any = None  # the newest version that was seen; never changed, only replaced
        self._opening = threading.Lock()
        self._pinned = Pinned()
        self._vectors = VectorCache(uri)
        self._totals: tuple[int, Totals] | None = None
        # What waits for a commit; a reader has nothing of it.
        self._puts: dict[str, tuple[StateRow, DocumentRow]] = {}
        self._deletes: set[str] = set()
        self._metadata: dict[str, str | None] = {}

    # Versions

    def _newest(self, anew: bool = False) -> Any:
        """The latest version, as an object that no other call moves.

        Args:
            anew: Whether to open the store again, with nothing of what is known of it.

        Raises:
            StoreMovedError: If the store has another model, or is another one, than when it was opened.
        """
        self._check_open()
        with self._opening, translated(self.uri, "refreshing"):
            latest = self._dataset.latest_version
            if latest == self._dataset.version and not anew:
                return self._dataset
            # A lower number is that of a store that was put in place of this one.
            found = None
            if not anew and latest > self._dataset.version:
                with suppress(StoreNotFoundError), translated(self.uri, "refreshing"):  # removed a moment ago
                    found = self._dataset.checkout_version(latest)
            if found is None:
                found = open_dataset(self.uri, self._options)
            self._check_identity(read_identity(found, self.uri))
            self._dataset = found
            return found

    def _check_identity(self, found: Identity) -> None:
        if found.name != self._identity.name:
            raise StoreMovedError(
                f"{self.uri}: another store was put in place of the one that was opened; open it anew"
            )
        if found.fingerprint != self._identity.fingerprint:
            model = found.settings.model or "a model without a name"
            raise StoreMovedError(f"{self.uri}: the store was moved to another model, {model}; open it anew")
        self._settings = found.settings
        self._identity = found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While it lasts, this thread reads one version: the latest when it began.

        If the files of that version are removed meanwhile, which takes a ``compact`` with a short ``keep_versions``, the
        latest one is read from then on.
        """
        pinned = self._pinned
        if not pinned.depth:
            pinned.dataset = self._newest()
        pinned.depth += 1
        try:
            yield
        finally:
            pinned.depth -= 1
            if not pinned.depth:
                pinned.dataset = None

    def refresh(self) -> None:
        """Does nothing that a call would not do by itself: every call sees the latest commit."""
        self._newest()

    def _read(self, task: Callable[[Any], T]) -> T:
        """Carry out one read on this thread's version; on the latest one, if files of the other are gone."""
        with self.reading():
            for _ in range(READ_TRIES - 1):
                try:
                    return task(self._pinned.dataset)
                except StoreNotFoundError:
                    self._pinned.dataset = self._newest(anew=True)
            return task(self._pinned.dataset)

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
        rows = {id_: self._puts[id_][0] for id_ in ids if id_ in self._puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in self._deletes]
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
        stored = self._read(lambda dataset: self._select(dataset, ids, _ENTRY_COLUMNS))
        entries = []
        for id_ in ids:
            entry = Entry(id_, None, False, False, None)
            if id_ in self._puts:
                light = self._puts[id_][1]
                entry = Entry(id_, light.content_hash, light.text is not None, light.pooled is not None, None)
            elif id_ in stored and id_ not in self._deletes:
                entry = Entry._make((*stored[id_], None))
            entries.append(entry)
        return entries

    def __len__(self) -> int:
        def count(dataset: Any) -> int:
            hidden = self._hidden()
            with translated(self.uri, "reading"):
                stored = int(dataset.count_rows())
            return stored - len(self._select(dataset, sorted(hidden), {"id": "id"})) + len(self._puts)

        return self._read(count)

    # All documents

    def _hidden(self) -> set[str]:
        """Ids whose rows on disk do not count: they are replaced or deleted by what waits for a commit."""
        return {*self._puts, *self._deletes}

    def _scan(self, columns: list[str]) -> Iterator[tuple]:
        """Rows of all documents on disk, ``id`` first; after a clean-up under way, the rest as the latest version has it."""
        dataset = self._pinned.dataset if self._pinned.depth else self._newest()
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
        self._check_open()
        hidden = self._hidden()
        yield from (row for row in self._scan(columns) if row[0] not in hidden)
        for state, light in list(self._puts.values()):
            values = as_columns(state, light, self._settings.tokenizer)
            yield tuple(values[column] for column in columns)

    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        if ids is None:
            return (self._with_metadata(DocumentRow._make(values)) for values in self._rows(DOCUMENT_COLUMNS))
        check_ids(ids)
        rows = self._read(lambda dataset: self._light(dataset, ids))
        if unknown := [id_ for id_ in ids if id_ not in rows]:
            raise UnknownDocumentError(unknown)
        return (rows[id_] for id_ in ids)

    def _light(self, dataset: Any, ids: Sequence[str]) -> dict[str, DocumentRow]:
        rows = {id_: self._puts[id_][1] for id_ in ids if id_ in self._puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in self._deletes]
        found = self._select(dataset, on_disk, {name: name for name in DOCUMENT_COLUMNS})
        return rows | {id_: self._with_metadata(DocumentRow._make(row)) for id_, row in found.items()}

    def _with_metadata(self, row: DocumentRow) -> DocumentRow:
        """A row on disk with the metadata that wait for it, if it is sound."""
        if row.id not in self._metadata:
            return row
        self._format.check_document(row)
        return self._format.signed(row._replace(metadata=self._metadata[row.id]))

    # First stage

    def _pending(self, dataset: Any) -> Pending:
        """What the first stage has to take from memory instead of the disk."""
        if not (self._puts or self._deletes or self._metadata):
            return Pending(frozenset(), ())
        changed = self._light(dataset, [*self._puts, *(id_ for id_ in self._metadata if id_ not in self._puts)])
        return Pending(frozenset([*self._hidden(), *changed]), list(changed.values()))

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
        problems: list[str] = []
        documents = tokens = 0
        try:
            for row, problem in self._checked_rows():
                documents += problem is None
                tokens += row["n_tokens"] if problem is None else 0
                problems += [] if problem is None else [problem]
        except StoreError as error:
            problems.append(str(error))
        return self._verify_report(documents, tokens, problems)

    def damaged(self) -> list[DamagedDocument]:
        """Documents whose rows are not as they were written, or that have two."""
        found: dict[str, DamagedDocument] = {}
        for row, problem in self._checked_rows():
            if problem is not None:
                text = metadata = None
                try:
                    light = DocumentRow(*(row[column] for column in DOCUMENT_COLUMNS))
                    self._format.check_document(light)
                    text, metadata = light.text, light.metadata
                except StoreCorruptError:
                    pass  # the text cannot be trusted either
                found[row["id"]] = DamagedDocument(row["id"], None, text, metadata)
        return list(found.values())

    def _checked_rows(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Every row, and what is wrong with it."""
        seen: set[str] = set()
        for values in self._rows(ROW_COLUMNS):
            row = dict(zip(ROW_COLUMNS, values, strict=True))
            try:
                if row["id"] in seen:
                    raise StoreCorruptError(f"document {row['id']!r} is stored twice")
                self._check_row(row)
            except StoreCorruptError as error:
                yield row, str(error)
            else:
                yield row, None
            seen.add(row["id"])

    def _check_row(self, row: Mapping[str, Any]) -> None:
        state = StateRow(*(row[column] for column in STATE_COLUMNS))
        light = DocumentRow(*(row[column] for column in DOCUMENT_COLUMNS))
        self._format.check_state(state, state.id)
        self._format.check_document(light)
        right = as_columns(state, light, self._settings.tokenizer)
        if any(row[column] != right[column] for column in WORD_COLUMNS):
            raise StoreCorruptError(
                f"document {state.id!r}: its words are not those of its text; `repair` makes them anew"
            )
