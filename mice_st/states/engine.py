"""What an engine of stores has to do: the abstract half of ``Store``.

A store that is open sees what any writer has committed: each call reads the latest commit, and within ``reading()`` all
calls of a thread read one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from .errors import StoreError, StoreReadOnlyError
from .identity import Fingerprint, StoreSettings
from .migration import Migration
from .packed import PackedStates
from .reports import CompactReport, DamagedDocument, VerifyReport
from .rows import DocumentRow, RowFormat, StateRow
from .where import Where


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


class Engine(ABC):
    """How documents are kept; ``Store`` is what users of stores call.

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

    def writing(self) -> AbstractContextManager[Any]:
        """While it lasts, no other thread changes anything by this object: for a change and its ``commit``.

        Otherwise an error of another thread could drop what this one has put, before it is committed.
        """
        return self._writing

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
