"""The contract of every store of document states, and the half of it that all engines share.

Two engines exist: ``SqliteStore`` (one file, standard library) and ``LanceStore`` (local folder, s3:// or gs://; extra
``lance``). Both keep documents by id, guarded by a hash of their content, with a CRC-32 over each row that every read
checks.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from torch import Tensor

from .errors import StoreError, StoreReadOnlyError, UnknownDocumentError
from .identity import Fingerprint
from .packed import PackedStates
from .put_checks import check_put
from .reports import CompactReport, PutReport, VerifyReport
from .rows import DocumentRow, RowFormat, StateRow, read_pooled, stack_pooled

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class Entry(NamedTuple):
    """An id in a store's index; ``content_hash`` is None if there is no such document, ``key`` is the engine's own."""

    id: str
    content_hash: str | None
    has_text: bool
    has_pooled: bool
    key: int | None


class Change(NamedTuple):
    """A document to be written: its entry so far, and its new rows."""

    entry: Entry
    state: StateRow
    document: DocumentRow


class Store(ABC):
    """Documents' frozen states by id.

    ``put`` and ``delete`` take effect with ``commit``: until it returns, a crash loses them, and afterwards it does
    not. A store is also a context manager: it commits when the block ends, drops what is uncommitted when it raises,
    and closes.

    An engine sets ``_fingerprint`` and ``_format`` when it opens, by ``_bind``.

    Args:
        location: File, folder or address, for messages.
        read_only: Whether ``put``, ``delete``, ``commit`` and ``compact`` are refused.
    """

    _fingerprint: Fingerprint
    _format: RowFormat

    def __init__(self, location: str, *, read_only: bool) -> None:
        self.read_only = read_only
        self._location = location
        self._closed = False
        self._writing = threading.RLock()  # threads may share a store

    # Engines

    @abstractmethod
    def __len__(self) -> int:
        """Number of documents, uncommitted changes included."""

    @abstractmethod
    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order of ``ids``, an id given twice returned twice.

        Raises:
            UnknownDocumentError: If the store has no such document; it names all of them. Damage to an engine's index
                of ids can also look like this (never like another document); ``verify`` tells the two apart.
            StoreCorruptError: If a row fails its CRC, length or id check.
        """

    @abstractmethod
    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        """The entry of each id, in order, uncommitted changes included."""

    @abstractmethod
    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """Light rows of all documents, or in order of these ids, unchecked, uncommitted changes included."""

    @abstractmethod
    def _write(self, changes: Sequence[Change]) -> None:
        """Write documents, to be made durable by ``commit``."""

    @abstractmethod
    def _remove(self, entries: Sequence[Entry]) -> None:
        """Remove documents that exist, to be made durable by ``commit``."""

    @abstractmethod
    def commit(self) -> None:
        """Make everything put and deleted so far durable.

        Raises:
            StoreReadOnlyError: If the store was opened for reading.
            StoreFullError: If the disk is full.
        """

    @abstractmethod
    def verify(self) -> VerifyReport:
        """Read and check everything; faults are listed, not raised."""

    @abstractmethod
    def compact(self) -> CompactReport:
        """Give the space of deleted and replaced documents back.

        Raises:
            StoreError: If something is uncommitted.
            StoreReadOnlyError: If the store was opened for reading.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files and locks; what is uncommitted is dropped, with a warning. Closing twice is allowed."""

    def _bind(self, fingerprint: Fingerprint, expected: Fingerprint | None) -> None:
        """Keep the fingerprint that was read when the store was opened.

        Raises:
            StoreMismatchError: If it is not the one expected.
        """
        if expected is not None:
            fingerprint.check(expected)
        self._fingerprint = fingerprint
        self._format = RowFormat(fingerprint)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self._location}: the store is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise StoreReadOnlyError(f"{self._location}: opened for reading")

    def _verify_report(self, documents: int, tokens: int, problems: list[str]) -> VerifyReport:
        state_bytes = tokens * self._format.codec.bytes_per_token(self._format.width)
        return VerifyReport(documents, tokens, state_bytes, problems)

    # Reading

    @property
    def fingerprint(self) -> Fingerprint:
        """The model and settings that made the states."""
        return self._fingerprint

    def document(self, id_: str) -> DocumentStates:
        """One document, decoded to float32; raises as ``get``."""
        return self.get([id_]).document(0)

    def stale(self, ids: Sequence[str], hashes: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are missing or stored under another hash: the ones to encode, in order."""
        return [
            entry.id for entry, hash_ in zip(self._entries(ids), hashes, strict=True) if entry.content_hash != hash_
        ]

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are not stored, in order."""
        return [entry.id for entry in self._entries(ids) if entry.content_hash is None]

    def checked_documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """Light rows of all documents, or in order of ``ids``, each checked as it is reached.

        Raises:
            UnknownDocumentError: If one of ``ids`` is not stored; it names all of them.
            StoreCorruptError: On reaching a row that is damaged.
        """
        for row in self._documents(ids):
            self._format.check_document(row)
            yield row

    def ids(self) -> Iterator[str]:
        """All ids."""
        return (row.id for row in self.checked_documents())

    def texts(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
        """All ids with their texts, in the order of ``ids()``; or those of ``ids`` alone, in their order.

        Raises:
            UnknownDocumentError: If one of ``ids`` is not stored; it names all of them.
            StoreError: On reaching a document that was put without text.
        """
        for row in self.checked_documents(ids):
            if row.text is None:
                raise StoreError(f"document {row.id!r} was put without its text")
            yield row.id, row.text

    def pooled(self) -> tuple[list[str], Tensor]:
        """All ids with their pooled vectors, in the order of ``ids()``.

        Returns:
            The ids, and ``(n_documents, width of the backbone)``: float16 if all are, else float32.

        Raises:
            StoreError: If a document was put without one.
            ValueError: If widths differ.
        """
        ids: list[str] = []
        vectors: list[np.ndarray] = []
        for row in self.checked_documents():
            if row.pooled is None:
                raise StoreError(f"document {row.id!r} was put without a pooled vector")
            ids.append(row.id)
            vectors.append(read_pooled(row.pooled))
        return ids, stack_pooled(ids, vectors)

    # Writing

    def put(
        self,
        ids: Sequence[str],
        documents: Sequence[DocumentStates],
        hashes: Sequence[str],
        *,
        texts: Sequence[str] | None = None,
        pooled: Tensor | None = None,
    ) -> PutReport:
        """Add or replace documents; one whose stored hash is equal is left alone.

        Args:
            ids: Any non-empty strings without NUL, each once.
            documents: Their states, ``(n_tokens, width)`` each, at least one token.
            hashes: Their ``content_hash``.
            texts: Their texts, for a first stage over the store. A document stored without text is replaced when one
                comes.
            pooled: Their pooled vectors, ``(n_documents, width of the backbone)`` float32 or float16; likewise.

        Raises:
            ValueError: If lengths differ, an id is empty or given twice, a document is empty, or a state cannot be
                encoded; nothing is put.
            StoreReadOnlyError: If the store was opened for reading.
            StoreFullError: If the disk is full; everything since the last commit is dropped.
        """
        self._check_writable()
        check_put(ids, documents, hashes, texts, pooled)
        report, changes = PutReport(), []
        with self._writing:
            for i, entry in enumerate(self._entries(ids)):
                lacks = (texts is not None and not entry.has_text) or (pooled is not None and not entry.has_pooled)
                if entry.content_hash == hashes[i] and not lacks:
                    report.unchanged.append(entry.id)
                    continue
                (report.added if entry.content_hash is None else report.changed).append(entry.id)
                state = self._format.state_row(entry.id, hashes[i], documents[i])
                text = None if texts is None else texts[i]
                vector = None if pooled is None else pooled[i]
                changes.append(Change(entry, state, self._format.document_row(state, text, vector)))
            if changes:
                self._write(changes)
        return report

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            UnknownDocumentError: If one is not stored; nothing is removed.
            StoreReadOnlyError: If the store was opened for reading.
        """
        self._check_writable()
        with self._writing:
            entries = self._entries(ids)
            unknown = [entry.id for entry in entries if entry.content_hash is None]
            if unknown:
                raise UnknownDocumentError(unknown)
            self._remove(entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        try:
            if args[0] is None and not self.read_only and not self._closed:
                self.commit()
        finally:
            self.close()
