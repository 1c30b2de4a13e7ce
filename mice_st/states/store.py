"""The contract of every store of document states, and the half of it that all engines share.

Two engines exist: ``SqliteStore`` (a file, standard library) and ``LanceStore`` (local folder, s3:// or gs://; extra
``lance``). Both keep documents by id, guarded by a hash of their content, with a CRC-32 over each row that every read
checks; both find documents by words and by vectors, in what is kept up to date with each commit.

A store that is open sees what any writer has committed: each call reads the latest commit, and within ``reading()`` all
calls of a thread read one.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from .errors import StoreError, StoreReadOnlyError, UnknownDocumentError
from .identity import Fingerprint, StoreSettings
from .migration import Migration
from .packed import PackedStates
from .put_checks import check_put
from .reports import CompactReport, DamagedDocument, PutReport, VerifyReport
from .rows import DocumentRow, RowFormat, StateRow, read_pooled, stack_pooled
from .where import Where, metadata_json

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

    An engine sets ``_fingerprint``, ``_settings`` and ``_format`` when it opens, by ``_bind``.

    Args:
        location: File, folder or address, for messages.
        read_only: Whether ``put``, ``delete``, ``commit`` and ``compact`` are refused.
    """

    _fingerprint: Fingerprint
    _settings: StoreSettings
    _format: RowFormat

    def __init__(self, location: str, *, read_only: bool) -> None:
        self.read_only = read_only
        self._location = location
        self._closed = False
        self._writing = threading.RLock()  # threads may share a store

    # Engines

    @abstractmethod
    def reading(self) -> AbstractContextManager[None]:
        """While it lasts, what this thread reads comes from one commit: the latest when it began.

        A writer's thread reads its own uncommitted changes too. Nested calls keep to the outer one's commit.

        Raises:
            StoreMovedError: If the store has been moved to another model since it was opened.
        """

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
    def get_known(self, ids: Sequence[str]) -> tuple[list[str], PackedStates]:
        """As ``get``, but documents that the store does not have are left out.

        Returns:
            The ids that it has, in the order of ``ids``, and their states.

        Raises:
            StoreCorruptError: If a row fails its CRC, length or id check.
        """

    @abstractmethod
    def search_words(self, query: str, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by BM25 over the stored texts, without those that share no word with the query.

        Args:
            query: Any text; none of its characters has a meaning of its own.
            top_k: Largest number of documents.
            where: Only documents whose metadata satisfies it.

        Returns:
            Document id -> score, larger is better, best first; equal scores are ordered by id.

        Raises:
            StoreError: If a document was put without its text; names one.
        """

    @abstractmethod
    def search_vectors(self, vector: Tensor, top_k: int, where: Where | None = None) -> dict[str, float]:
        """The best documents by the cosine of their pooled vectors.

        Args:
            vector: Pooled vector of the query, ``(width,)``, any floating dtype and device.
            top_k: Largest number of documents.
            where: Only documents whose metadata satisfies it.

        Returns:
            Document id -> cosine, best first; equal ones are ordered by id.

        Raises:
            StoreError: If a document was put without a vector; names one.
            ValueError: If the widths differ.
        """

    @abstractmethod
    def _set_metadata(self, entries: Sequence[Entry], metadata: Sequence[str | None]) -> None:
        """Replace the metadata of documents that exist, to be made durable by ``commit``."""

    @abstractmethod
    def begin_migration(self, fingerprint: Fingerprint, settings: StoreSettings) -> Migration:
        """Begin to move the store to another model, or go on with it; the old states answer until it is finished.

        Raises:
            StoreReadOnlyError: If the store was opened for reading.
            StoreError: If a document was put without its text (names it), or something is uncommitted.
        """

    @abstractmethod
    def rebuild_first_stage(self, tokenizer: str | None = None) -> None:
        """Make words and vectors anew from the rows, and commit.

        Args:
            tokenizer: As in ``StoreSettings``; None keeps what the store has.
        """

    def build_ann(self) -> int:
        """Make an approximate index of the vectors, which ``search_vectors`` uses from then on, and commit.

        It is worth it from about a million documents. It is made anew with the vectors: by ``compact``, ``repair``, a
        migration, and when a quarter of the vectors is dead. What is added in between is looked at as a whole.

        Returns:
            How many vectors it covers.

        Raises:
            ImportError: If the extra ``ann`` is not installed.
            StoreError: If there are no vectors, if something is uncommitted, or if this engine has no such index.
            StoreReadOnlyError: If the store was opened for reading.
            StoreFullError: If the disk is full.
        """
        raise StoreError(f"{self._location}: only SQLite stores have an approximate index")

    def drop_ann(self) -> bool:
        """Remove the approximate index, and commit; ``search_vectors`` is exact again.

        Returns:
            Whether there was one.

        Raises:
            StoreError: If something is uncommitted, or if this engine has no such index.
            StoreReadOnlyError: If the store was opened for reading.
        """
        raise StoreError(f"{self._location}: only SQLite stores have an approximate index")

    @abstractmethod
    def backup(self, path: str) -> None:
        """Write a copy of the latest commit of this store, which may be in use.

        Args:
            path: Of the copy; nothing may lie there.

        Raises:
            FileExistsError: If something does.
        """

    @abstractmethod
    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        """The entry of each id, in order, uncommitted changes included."""

    @abstractmethod
    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """Light rows of all documents, or in order of these ids, unchecked, uncommitted changes included."""

    def _changing(self) -> AbstractContextManager[None]:
        """Around reading entries and changing them: what an engine with one writer at a time locks."""
        return nullcontext()

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
    def damaged(self) -> list[DamagedDocument]:
        """Documents whose rows are not as they were written; see ``repair.py``."""

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

    def _bind(
        self, fingerprint: Fingerprint, settings: StoreSettings, expected: Fingerprint | None, used_by: str = ""
    ) -> None:
        """Keep the fingerprint and the settings that were read when the store was opened.

        Raises:
            StoreMismatchError: If it is not the fingerprint expected.
        """
        if expected is not None:
            fingerprint.check(expected, settings.model, used_by)
        self._fingerprint = fingerprint
        self._settings = settings
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

    @property
    def settings(self) -> StoreSettings:
        """What the store keeps beside its fingerprint."""
        return self._settings

    def document(self, id_: str) -> DocumentStates:
        """One document, decoded to float32; raises as ``get``."""
        return self.get([id_]).document(0)

    def stale(self, ids: Sequence[str], hashes: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are missing or stored under another hash: the ones to encode, in order."""
        return [
            entry.id for entry, hash_ in zip(self._entries(ids), hashes, strict=True) if entry.content_hash != hash_
        ]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Metadata of documents, in order; None where there is none. Raises as ``checked_documents``."""
        rows = self.checked_documents(ids)
        return [None if row.metadata is None else json.loads(row.metadata) for row in rows]

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
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> PutReport:
        """Add or replace documents; one whose stored hash is equal is left alone.

        Args:
            ids: Any non-empty strings without NUL, each once.
            documents: Their states, ``(n_tokens, width)`` each, at least one token.
            hashes: Their ``content_hash``.
            texts: Their texts, for a first stage over the store. A document stored without text is replaced when one
                comes.
            pooled: Their pooled vectors, ``(n_documents, width of the backbone)`` float32 or float16; likewise.
            metadata: Their metadata, each a dictionary that JSON can hold, or None. That of a document that is left
                alone stays as it is: see ``set_metadata``.

        Raises:
            ValueError: If lengths differ, an id is empty or given twice, a document is empty, a state cannot be encoded,
                or metadata cannot be written as JSON; nothing is put.
            StoreReadOnlyError: If the store was opened for reading.
            StoreFullError: If the disk is full; everything since the last commit is dropped.
        """
        self._check_writable()
        check_put(ids, documents, hashes, texts, pooled)
        lines = self._metadata_lines(ids, [None] * len(ids) if metadata is None else metadata)
        report, changes = PutReport(), []
        with self._writing, self._changing():
            for i, entry in enumerate(self._entries(ids)):
                lacks = (texts is not None and not entry.has_text) or (pooled is not None and not entry.has_pooled)
                if entry.content_hash == hashes[i] and not lacks:
                    report.unchanged.append(entry.id)
                    continue
                (report.added if entry.content_hash is None else report.changed).append(entry.id)
                state = self._format.state_row(entry.id, hashes[i], documents[i])
                text = None if texts is None else texts[i]
                vector = None if pooled is None else pooled[i]
                changes.append(Change(entry, state, self._format.document_row(state, text, lines[i], vector)))
            if changes:
                self._write(changes)
        return report

    @staticmethod
    def _metadata_lines(ids: Sequence[str], metadata: Sequence[Mapping[str, Any] | None]) -> list[str | None]:
        if len(metadata) != len(ids):
            raise ValueError(f"{len(ids)} ids but {len(metadata)} metadata")
        return [metadata_json(item, f"document {id_!r}") for id_, item in zip(ids, metadata, strict=True)]

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Mapping[str, Any] | None]) -> int:
        """Replace the metadata of stored documents, without encoding anything.

        Args:
            ids: Each once.
            metadata: Dictionaries that JSON can hold, or None for none.

        Returns:
            How many documents had other metadata before.

        Raises:
            UnknownDocumentError: If one is not stored; nothing is changed.
            ValueError: If metadata cannot be written as JSON; names the document.
            StoreReadOnlyError: If the store was opened for reading.
        """
        self._check_writable()
        lines = self._metadata_lines(ids, metadata)
        with self._writing, self._changing():
            entries = self._entries(ids)
            if unknown := [entry.id for entry in entries if entry.content_hash is None]:
                raise UnknownDocumentError(unknown)
            now = [row.metadata for row in self.checked_documents(ids)]
            changed = [place for place, line in enumerate(lines) if line != now[place]]
            if changed:
                self._set_metadata([entries[place] for place in changed], [lines[place] for place in changed])
        return len(changed)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            UnknownDocumentError: If one is not stored; nothing is removed.
            StoreReadOnlyError: If the store was opened for reading.
        """
        self._check_writable()
        with self._writing, self._changing():
            entries = self._entries(list(dict.fromkeys(ids)))
            unknown = [entry.id for entry in entries if entry.content_hash is None]
            if unknown:
                raise UnknownDocumentError(unknown)
            self._remove(entries)

    def discard(self, damaged: Sequence[DamagedDocument]) -> None:
        """Remove documents that ``damaged`` named, to be made durable by ``commit``."""
        self._check_writable()
        with self._writing, self._changing():
            self._remove([Entry(document.id, "", True, True, document.key) for document in damaged])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        try:
            if args[0] is None and not self.read_only and not self._closed:
                self.commit()
        finally:
            self.close()
