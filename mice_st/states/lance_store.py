"""Document states in Lance: a local folder, ``s3://`` or ``gs://``, several writers at once. Needs the extra ``lance``.

Rows and their CRC-32 are those of the SQLite store: a reader of Lance's files checks no checksum of its own, so ours is
mandatory. Every commit makes a new version, and a reader keeps to the version that it opened until it calls
``refresh``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from os import PathLike, fspath

from .errors import StoreCorruptError, StoreError, UnknownDocumentError
from .identity import Fingerprint
from .lance_files import (
    DOCUMENT_COLUMNS,
    IDS_PER_QUERY,
    STATE_COLUMNS,
    as_columns,
    as_rows,
    as_table,
    id_filter,
    open_dataset,
    read_fingerprint,
    select_rows,
    size_in_bytes,
    translated,
)
from .packed import PackedStates
from .put_checks import check_ids
from .reports import CompactReport, VerifyReport
from .rows import DocumentRow, Packer, StateRow
from .store import Change, Entry, Store

logger = logging.getLogger(__name__)

KEEP_VERSIONS = timedelta(days=7)  # longer than any reader lives; Lance itself keeps unfinished writes for as long
CONFLICT_RETRIES = 100
RETRY_TIME = timedelta(minutes=10)
SCAN_ROWS = 256


class LanceStore(Store):
    """Document states in a Lance dataset; ``Store`` documents each method.

    There is no lock: writers retry when they conflict, and of two that put the same id the later one wins. What is put
    waits in memory for ``commit``; if that fails it still waits, and ``commit`` may be called again. Open it anew after
    a fork.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        fingerprint: What the states must have been made by; None accepts what the store holds, and cannot create one.
        read_only: Whether only to read.
        storage_options: Credentials and endpoints, as Lance names them.
        keep_versions: Age at which ``compact`` removes old versions; longer than any reader lives.

    Raises:
        StoreNotFoundError: If there is no store, and ``read_only`` is set or there is no fingerprint to create it with.
        StoreMismatchError: If the states were made by something else.
        StoreCorruptError: If this is no store, or a damaged one.
    """

    def __init__(
        self,
        uri: str | PathLike[str],
        fingerprint: Fingerprint | None,
        *,
        read_only: bool,
        storage_options: dict[str, str] | None = None,
        keep_versions: timedelta = KEEP_VERSIONS,
    ) -> None:
        self.uri = fspath(uri)
        super().__init__(self.uri, read_only=read_only)
        self._keep_versions = keep_versions
        self._puts: dict[str, tuple[StateRow, DocumentRow]] = {}
        self._deletes: set[str] = set()
        self._dataset = open_dataset(self.uri, None if read_only else fingerprint, storage_options)
        self._bind(read_fingerprint(self._dataset, self.uri), fingerprint)

    @contextmanager
    def _lance(self, doing: str) -> Iterator[None]:
        """Let only the store's own exceptions out of a block that uses Lance."""
        self._check_open()
        with translated(self.uri, doing):
            yield

    # Reading

    def refresh(self) -> None:
        """See what other writers have committed since this store was opened or last refreshed."""
        with self._lance("refreshing"):
            self._dataset.checkout_latest()

    def _select(self, ids: Sequence[str], columns: Mapping[str, str]) -> dict[str, tuple]:
        """Rows by id as they are on disk; nothing of what waits for a commit."""
        self._check_open()
        return select_rows(self._dataset, self.uri, ids, columns)

    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order of ``ids``; all from one version."""
        check_ids(ids)
        rows = {id_: self._puts[id_][0] for id_ in ids if id_ in self._puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in self._deletes]
        rows |= {
            id_: StateRow._make(row)
            for id_, row in self._select(on_disk, {name: name for name in STATE_COLUMNS}).items()
        }
        unknown = [id_ for id_ in ids if id_ not in rows]
        if unknown:
            raise UnknownDocumentError(unknown)
        packer = Packer(self._format)
        for id_ in ids:
            self._format.check_state(rows[id_], id_)
            packer.add(rows[id_])
        return packer.packed()

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        check_ids(ids)
        columns = {
            "id": "id",
            "content_hash": "content_hash",
            "text": "text IS NOT NULL",
            "pooled": "pooled IS NOT NULL",
        }
        stored = self._select(ids, columns)
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
        return sum(1 for _ in self._rows(["id"]))

    def _rows(self, columns: list[str]) -> Iterator[tuple]:
        """Rows of all documents: those on disk in Lance's order, then those that wait."""
        with self._lance("reading"):
            batches = self._dataset.to_batches(columns=columns, batch_size=SCAN_ROWS)
        while True:
            with self._lance("reading"):
                batch = next(batches, None)
                if batch is None:
                    break
                rows = as_rows(batch, columns)
            yield from (row for row in rows if row[0] not in self._puts and row[0] not in self._deletes)
        for state, light in list(self._puts.values()):
            values = as_columns(state, light)
            yield tuple(values[column] for column in columns)

    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        if ids is None:
            return (DocumentRow._make(values) for values in self._rows(DOCUMENT_COLUMNS))
        check_ids(ids)
        rows = {id_: self._puts[id_][1] for id_ in ids if id_ in self._puts}
        on_disk = [id_ for id_ in ids if id_ not in rows and id_ not in self._deletes]
        columns = {name: name for name in DOCUMENT_COLUMNS}
        rows |= {id_: DocumentRow._make(row) for id_, row in self._select(on_disk, columns).items()}
        unknown = [id_ for id_ in ids if id_ not in rows]
        if unknown:
            raise UnknownDocumentError(unknown)
        return (rows[id_] for id_ in ids)

    # Writing

    def _write(self, changes: Sequence[Change]) -> None:
        for entry, state, document in changes:
            self._puts[entry.id] = (state, document)
            self._deletes.discard(entry.id)

    def _remove(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._puts.pop(entry.id, None)
            self._deletes.add(entry.id)

    def commit(self) -> None:
        """Make everything put and deleted so far a new version (two, if there is both)."""
        self._check_writable()
        with self._lance("committing"):
            deletes = sorted(self._deletes)
            for start in range(0, len(deletes), IDS_PER_QUERY):
                part = deletes[start : start + IDS_PER_QUERY]
                self._dataset.delete(id_filter(part), conflict_retries=CONFLICT_RETRIES, retry_timeout=RETRY_TIME)
                self._deletes -= set(part)
            if self._puts:
                merge = self._dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.conflict_retries(CONFLICT_RETRIES).retry_timeout(RETRY_TIME).execute(
                    as_table(list(self._puts.values()), self._fingerprint)
                )
                self._puts.clear()
            self._dataset.checkout_latest()

    def compact(self) -> CompactReport:
        """Merge small files, index ids, and remove versions older than ``keep_versions``; readers of those would fail."""
        self._check_writable()
        if self._puts or self._deletes:
            raise StoreError(f"{self.uri}: commit before compacting")
        with self._lance("compacting"):
            before = size_in_bytes(self._dataset)
            self._dataset.checkout_latest()
            self._dataset.optimize.compact_files()
            if self._dataset.describe_indices():
                self._dataset.optimize.optimize_indices()
            elif self._dataset.count_rows():
                self._dataset.create_scalar_index("id", "BTREE")
            self._dataset.cleanup_old_versions(older_than=self._keep_versions)
            return CompactReport(before, size_in_bytes(self._dataset))

    # Checking and closing

    def verify(self) -> VerifyReport:
        """Read and check every row of this version."""
        problems: list[str] = []
        seen: set[str] = set()
        tokens = 0
        columns = [*STATE_COLUMNS, *DOCUMENT_COLUMNS[3:]]
        try:
            for values in self._rows(columns):
                state = StateRow._make(values[:7])
                try:
                    if state.id in seen:
                        raise StoreCorruptError(f"document {state.id!r} is stored twice")
                    self._format.check_state(state, state.id)
                    self._format.check_document(DocumentRow._make((*values[:3], *values[7:])))
                    seen.add(state.id)
                    tokens += state.n_tokens
                except StoreError as error:
                    problems.append(str(error))
        except StoreError as error:
            problems.append(str(error))
        return self._verify_report(len(seen), tokens, problems)

    def close(self) -> None:
        """Let go of the dataset; what is uncommitted is dropped, with a warning. Closing twice is allowed."""
        if not self._closed and (self._puts or self._deletes):
            logger.warning("%s: closed with uncommitted changes, which are dropped", self.uri)
        self._closed = True
        self._puts.clear()
        self._deletes.clear()
        self._dataset = None
