"""What every store of document states offers, and what binds it to the model that filled it.

Two engines exist: ``SqliteStore`` (one file, standard library) and ``LanceStore`` (local folder, s3:// or gs://; extra ``lance``). Both
keep documents by id, guarded by a hash of their content, with a CRC-32 over each row that every read checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike, fspath
from typing import TYPE_CHECKING, Protocol, Self

from torch import Tensor

from .codecs import get_codec
from .errors import StoreCorruptError, StoreMismatchError
from .packed import PackedStates

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates

FORMAT_VERSION = 1


def content_hash(text: str) -> str:
    """SHA-256 of a document's text, 64 hexadecimal digits: equal texts need not be encoded again."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """What made the states of a store; two stores with equal fingerprints hold interchangeable states.

    Attributes:
        weights_sha256: Hash of the weights that documents pass through.
        tokenizer_sha256: Hash of the tokenizer's definition.
        layer: Contextualisation layers that the documents went through.
        max_length: Tokens at which a document is cut.
        prompt: Text put before each document; empty for none.
        dtype: Precision the encoder ran in, such as ``float32``.
        codec: How states are stored, see ``mice_st.states.codecs``.
        width: Values per token.
        format_version: Of the rows; a change makes older stores unreadable.
    """

    weights_sha256: str
    tokenizer_sha256: str
    layer: int
    max_length: int
    prompt: str
    dtype: str
    codec: str
    width: int
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        get_codec(self.codec)
        if self.width < 1:
            raise ValueError(f"width must be positive, not {self.width}")

    def check(self, wanted: Fingerprint) -> None:
        """Compare with the fingerprint of what is about to use the store.

        Raises:
            StoreMismatchError: If any field differs; it names the first one and lists the others.
        """
        different = [f.name for f in fields(self) if getattr(self, f.name) != getattr(wanted, f.name)]
        if different:
            first = different[0]
            raise StoreMismatchError(first, getattr(self, first), getattr(wanted, first), different[1:])

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Fingerprint:
        """Read what ``to_json`` wrote.

        Raises:
            StoreMismatchError: If another version of the format wrote it.
            StoreCorruptError: If it is no fingerprint.
        """
        try:
            values = json.loads(line)
            version = values.get("format_version")
            if version != FORMAT_VERSION:
                raise StoreMismatchError("format_version", version, FORMAT_VERSION)
            return cls(**values)
        except StoreMismatchError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise StoreCorruptError(f"the store's fingerprint cannot be read: {error}") from error


@dataclass(frozen=True)
class PutReport:
    """What one ``put`` did, ids in its order: ``added`` are new, ``changed`` replaced, ``unchanged`` left alone."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerifyReport:
    """What reading the whole store found.

    Attributes:
        documents: Documents read without a fault.
        tokens: Their tokens.
        state_bytes: Bytes of their states and scales.
        problems: One line per fault; empty for a sound store.
    """

    documents: int
    tokens: int
    state_bytes: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class CompactReport:
    """Bytes that the store occupied before and after ``compact``."""

    bytes_before: int
    bytes_after: int


class Store(Protocol):
    """Documents' frozen states by id.

    ``put`` and ``delete`` take effect with ``commit``: until it returns, a crash loses them, and afterwards it does not. A store is also a
    context manager: it commits when the block ends, drops what is uncommitted when it raises, and closes.
    """

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the states."""

    def __len__(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *args: object) -> None: ...

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
            texts: Their texts, for a first stage over the store. A document stored without text is replaced when one comes.
            pooled: Their pooled vectors, ``(n_documents, width of the backbone)`` float32 or float16; likewise.

        Raises:
            ValueError: If lengths differ, an id is empty or given twice, a document is empty, or a state cannot be encoded; nothing is put.
            StoreReadOnlyError: If the store was opened for reading.
            StoreFullError: If the disk is full; everything since the last commit is dropped.
        """

    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order asked for, an id asked twice given twice.

        Raises:
            UnknownDocumentError: If the store has no such document; it names all of them. Damage to an engine's index of ids can also look
                like this (never like another document); ``verify`` tells the two apart.
            StoreCorruptError: If a row fails its CRC, length or id check.
        """

    def document(self, id_: str) -> DocumentStates:
        """One document, decoded to float32; raises as ``get``."""

    def stale(self, ids: Sequence[str], hashes: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are missing or stored under another hash: the ones to encode, in order."""

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are not stored, in order."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            UnknownDocumentError: If one is not stored; nothing is removed.
        """

    def ids(self) -> Iterator[str]:
        """All ids."""

    def texts(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
        """All ids with their texts; or these alone, in the order asked for.

        Raises:
            UnknownDocumentError: If one of ``ids`` is not stored; it names all of them.
            StoreError: On reaching a document that was put without text.
        """

    def pooled(self) -> tuple[list[str], Tensor]:
        """All ids with their pooled vectors, ``(n_documents, width of the backbone)``: float16 if all are, else float32.

        Raises:
            StoreError: If a document was put without one, or widths differ.
        """

    def commit(self) -> None:
        """Make everything put and deleted so far durable."""

    def verify(self) -> VerifyReport:
        """Read and check everything; faults are listed, not raised."""

    def compact(self) -> CompactReport:
        """Give the space of deleted and replaced documents back.

        Raises:
            StoreError: If something is uncommitted.
        """

    def close(self) -> None:
        """Release files and locks; what is uncommitted is dropped, with a warning."""


def open_store(
    path: str | PathLike[str],
    fingerprint: Fingerprint | None,
    *,
    read_only: bool,
    storage_options: dict[str, str] | None = None,
) -> Store:
    """Open a store, or create it where there is none and it is opened for writing.

    Args:
        path: A folder ending in ``.lance``, or an ``s3://`` or ``gs://`` address, is a ``LanceStore``; anything else a ``SqliteStore``.
        fingerprint: What the states must have been made by; None accepts whatever the store holds (and cannot create one).
        read_only: Whether only to read. A writer shuts out other writers, never readers.
        storage_options: Credentials and endpoints for Lance's object stores.

    Raises:
        StoreMismatchError: If the store was made by something else.
        StoreNotFoundError: If there is none, and it is opened for reading or without a fingerprint.
        ValueError: If ``storage_options`` are given for SQLite.
    """
    name = fspath(path)
    if name.startswith(("s3://", "gs://")) or name.rstrip("/").endswith(".lance"):
        from .lance_store import LanceStore  # late: needs an extra

        return LanceStore(name, fingerprint, read_only=read_only, storage_options=storage_options)
    if storage_options:
        raise ValueError(f"{name} is a SQLite store, which takes no storage_options")
    from .sqlite_store import SqliteStore  # late: it imports this module

    return SqliteStore(name, fingerprint, read_only=read_only)
