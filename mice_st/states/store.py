"""Stores of document states: the half that all engines share; ``engine.py`` has what each does by itself.

Two engines exist: ``SqliteStore`` (a file, standard library) and ``LanceStore`` (local folder, s3:// or gs://; extra
``lance``). Both keep documents by id, guarded by a hash of their content, with a CRC-32 over each row that every read
checks; both find documents by words and by vectors, in what is kept up to date with each commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import Tensor

from .engine import Change, Engine, Entry
from .errors import StoreError, UnknownDocumentError
from .identity import Fingerprint, StoreSettings
from .put_checks import check_put
from .reports import DamagedDocument, PutReport
from .rows import DocumentRow, read_pooled, stack_pooled
from .where import metadata_json

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class Store(Engine):
    """Documents' frozen states by id.

    ``put`` and ``delete`` take effect with ``commit``: until it returns, a crash loses them, and afterwards it does
    not. A store is also a context manager: it commits when the block ends, drops what is uncommitted when it raises,
    and closes.

    Args:
        location: File, folder or address, for messages.
        read_only: Whether ``put``, ``delete``, ``commit`` and ``compact`` are refused.
    """

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
