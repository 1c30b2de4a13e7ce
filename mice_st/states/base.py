"""What both engines do alike once they can find documents and walk over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from .errors import StoreError
from .packed import PackedStates
from .rows import DocumentRow, RowFormat, StateRow, read_pooled, stack_pooled
from .store import Fingerprint, PutReport

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class Known(NamedTuple):
    """What a store knows of an id; ``content_hash`` is None if it has no such document, ``key`` is the engine's own."""

    id: str
    content_hash: str | None
    has_text: bool
    has_pooled: bool
    key: int | None


class StoreBase(ABC):
    """The common half of the engines; see ``mice_st.states.store.Store`` for what each method promises."""

    read_only: bool
    _closed: bool
    _fingerprint: Fingerprint
    _format: RowFormat

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the states."""
        return self._fingerprint

    @abstractmethod
    def get(self, ids: Sequence[str]) -> PackedStates:
        """States of documents in the order asked for."""

    @abstractmethod
    def _find(self, ids: Sequence[str]) -> list[Known]:
        """What is known of each id, in order, uncommitted changes included."""

    @abstractmethod
    def _documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """Light rows of all documents, or in order of these ids, unchecked, uncommitted changes included."""

    @abstractmethod
    def commit(self) -> None:
        """Make everything put and deleted so far durable."""

    @abstractmethod
    def close(self) -> None:
        """Release files and locks."""

    def document(self, id_: str) -> DocumentStates:
        """One document, decoded to float32."""
        return self.get([id_]).document(0)

    def stale(self, ids: Sequence[str], hashes: Sequence[str]) -> list[str]:
        """Ids that are missing or stored under another hash."""
        return [known.id for known, wanted in zip(self._find(ids), hashes, strict=True) if known.content_hash != wanted]

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Ids that are not stored."""
        return [known.id for known in self._find(ids) if known.content_hash is None]

    def checked_documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """Light rows of all documents, or in order of these ids, each checked as it is reached."""
        for row in self._documents(ids):
            self._format.check_document(row)
            yield row

    def ids(self) -> Iterator[str]:
        """All ids."""
        return (row.id for row in self.checked_documents())

    def texts(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
        """All ids with their texts, in the order of ``ids``; or these alone, in the order asked for."""
        for row in self.checked_documents(ids):
            if row.text is None:
                raise StoreError(f"document {row.id!r} was put without its text")
            yield row.id, row.text

    def pooled(self) -> tuple[list[str], Tensor]:
        """All ids with their pooled vectors, in the order of ``ids``."""
        ids: list[str] = []
        vectors: list[np.ndarray] = []
        for row in self.checked_documents():
            if row.pooled is None:
                raise StoreError(f"document {row.id!r} was put without a pooled vector")
            ids.append(row.id)
            vectors.append(read_pooled(row.pooled))
        return ids, stack_pooled(ids, vectors)

    def _encode(
        self,
        ids: Sequence[str],
        documents: Sequence[DocumentStates],
        hashes: Sequence[str],
        texts: Sequence[str] | None,
        pooled: Tensor | None,
    ) -> tuple[PutReport, list[tuple[Known, StateRow, DocumentRow]]]:
        """Check the arguments of a ``put``, and encode the documents that it changes."""
        check_put(ids, documents, hashes, texts, pooled)
        report, changes = PutReport(), []
        for i, known in enumerate(self._find(ids)):
            lacks = (texts is not None and not known.has_text) or (pooled is not None and not known.has_pooled)
            if known.content_hash == hashes[i] and not lacks:
                report.unchanged.append(known.id)
                continue
            (report.added if known.content_hash is None else report.changed).append(known.id)
            state = self._format.state_row(known.id, hashes[i], documents[i])
            text = None if texts is None else texts[i]
            vector = None if pooled is None else pooled[i]
            changes.append((known, state, self._format.document_row(state, text, vector)))
        return report, changes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        try:
            if args[0] is None and not self.read_only and not self._closed:
                self.commit()
        finally:
            self.close()


def check_put(
    ids: Sequence[str],
    documents: Sequence[DocumentStates],
    hashes: Sequence[str],
    texts: Sequence[str] | None,
    pooled: Tensor | None,
) -> None:
    """Check the arguments of ``put`` that no codec looks at.

    Raises:
        ValueError: If lengths differ, an id is unusable or given twice, a hash is empty, or ``pooled`` is no finite matrix.
    """
    check_ids(ids)
    sizes = {"documents": len(documents), "hashes": len(hashes)}
    sizes |= {} if texts is None else {"texts": len(texts)}
    sizes |= {} if pooled is None else {"pooled": len(pooled)}
    for name, size in sizes.items():
        if size != len(ids):
            raise ValueError(f"{len(ids)} ids but {size} {name}")
    seen: set[str] = set()
    for id_, hash_ in zip(ids, hashes, strict=True):
        if not id_ or id_ in seen:
            raise ValueError(f"id {id_!r} is given twice in one put" if id_ else "an id is empty")
        if not hash_:
            raise ValueError(f"document {id_!r} has no content hash")
        seen.add(id_)
    if pooled is not None:
        if pooled.ndim != 2 or pooled.dtype not in (torch.float16, torch.float32):
            raise ValueError(f"pooled must be a float16 or float32 matrix, not {pooled.dtype} {tuple(pooled.shape)}")
        bad = ~torch.isfinite(pooled).all(dim=1)
        if bool(bad.any()):
            raise ValueError(f"document {ids[int(bad.nonzero()[0])]!r}: pooled vector is not finite")


def check_ids(ids: Sequence[str]) -> None:
    """Refuse ids that no engine could keep.

    Raises:
        TypeError: If ``ids`` is one string instead of a sequence of them.
        ValueError: If one is no string, holds NUL or cannot be written as UTF-8.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a sequence of strings, not the string {ids!r}")
    for id_ in ids:
        if not isinstance(id_, str) or "\0" in id_:
            raise ValueError(f"id {id_!r} must be a string without NUL")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"an id cannot be written as UTF-8: {error}") from error
