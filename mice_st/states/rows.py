"""One document as a row of bytes with its CRC-32, the same in every engine.

Little-endian throughout: ``input_ids`` int32, ``scales`` float16, ``payload`` as the codec lays it out. A row's CRC
starts from that of the store's fingerprint, so that a row copied from another store, or a damaged fingerprint, is
noticed as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .codecs import Codec, get_codec
from .errors import StoreCorruptError
from .identity import Fingerprint
from .packed import PackedStates

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class StateRow(NamedTuple):
    """The columns of one document that ranking reads."""

    id: str
    content_hash: str
    n_tokens: int
    crc: int
    input_ids: bytes
    scales: bytes
    payload: bytes


class DocumentRow(NamedTuple):
    """Columns of one document for a first stage.

    ``metadata`` is the JSON of an object; ``pooled`` starts with ``e`` for float16 or ``f`` for float32.
    """

    id: str
    content_hash: str
    n_tokens: int
    crc: int
    text: str | None
    metadata: str | None
    pooled: bytes | None


_POOLED_DTYPES: dict[bytes, np.dtype] = {b"e": np.dtype("<f2"), b"f": np.dtype("<f4")}


class RowFormat:
    """Makes and checks the rows of one store.

    Args:
        fingerprint: Of the store; gives codec, width and the start of each CRC.
    """

    def __init__(self, fingerprint: Fingerprint) -> None:
        self.codec: Codec = get_codec(fingerprint.codec)
        self.width = fingerprint.width
        self.seed = zlib.crc32(fingerprint.to_json().encode())
        self._payload_bytes = self.codec.columns(self.width) * self.codec.dtype.itemsize
        self._scale_bytes = 2 if self.codec.scaled else 0

    def _state_crc(self, row: StateRow) -> int:
        crc = zlib.crc32(f"{row.id}\0{row.content_hash}\0{row.n_tokens}".encode(), self.seed)
        return zlib.crc32(row.payload, zlib.crc32(row.scales, zlib.crc32(row.input_ids, crc)))

    def _document_crc(self, row: DocumentRow) -> int:
        parts = (row.text, row.metadata, row.pooled)
        sizes = "\0".join(str(-1 if part is None else len(part)) for part in parts)
        crc = zlib.crc32(f"{row.id}\0{row.content_hash}\0{row.n_tokens}\0{sizes}".encode(), self.seed)
        crc = zlib.crc32((row.metadata or "").encode(), zlib.crc32((row.text or "").encode(), crc))
        return zlib.crc32(row.pooled or b"", crc)

    def state_row(self, id_: str, content_hash: str, document: DocumentStates) -> StateRow:
        """Encode one document.

        Raises:
            ValueError: If it is empty, of another width, or cannot be encoded; the message names the document.
        """
        n_tokens = len(document.input_ids)
        if n_tokens == 0 or tuple(document.states.shape) != (n_tokens, self.width):
            raise ValueError(
                f"document {id_!r}: states {tuple(document.states.shape)} for {n_tokens} tokens; "
                f"the store wants (n_tokens, {self.width}) with at least one token"
            )
        ids = document.input_ids.detach().cpu().numpy()
        if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
            raise ValueError(f"document {id_!r}: token ids must lie in [0, 2**31)")
        try:
            payload, scales = self.codec.encode(document.states)
        except ValueError as error:
            raise ValueError(f"document {id_!r}: {error}") from error
        row = StateRow(
            id_,
            content_hash,
            n_tokens,
            0,
            ids.astype("<i4").tobytes(),
            b"" if scales is None else scales.numpy().tobytes(),
            payload.numpy().tobytes(),
        )
        return self.signed_state(row)

    def signed_state(self, row: StateRow) -> StateRow:
        """The same row of states with the CRC that it has to have."""
        return row._replace(crc=self._state_crc(row))

    def document_row(
        self, state: StateRow, text: str | None, metadata: str | None, pooled: Tensor | None
    ) -> DocumentRow:
        """The light half of a document.

        Args:
            state: Its other half.
            text: Its text, if kept.
            metadata: Its metadata as JSON, if there is any.
            pooled: Its pooled vector, ``(width of the backbone,)`` float16 or float32, if kept.

        Raises:
            ValueError: If the text cannot be written as UTF-8; the message names the document.
        """
        blob = None
        if pooled is not None:
            code = b"e" if pooled.dtype == torch.float16 else b"f"
            blob = code + pooled.detach().cpu().numpy().astype(_POOLED_DTYPES[code]).tobytes()
        return self.signed(DocumentRow(state.id, state.content_hash, state.n_tokens, 0, text, metadata, blob))

    def signed(self, row: DocumentRow) -> DocumentRow:
        """The same light row with the CRC that it has to have.

        Raises:
            ValueError: If the text cannot be written as UTF-8; the message names the document.
        """
        try:
            return row._replace(crc=self._document_crc(row))
        except UnicodeEncodeError as error:
            raise ValueError(f"document {row.id!r}: its text cannot be written as UTF-8: {error}") from error

    def check_state(self, row: StateRow, id_: str) -> None:
        """Check one row that was read.

        Raises:
            StoreCorruptError: If it is not the row of document ``id_`` exactly as it was written.
        """
        try:
            n = row.n_tokens
            sound = (
                row.id == id_
                and n > 0
                and len(row.input_ids) == 4 * n
                and len(row.scales) == self._scale_bytes * n
                and len(row.payload) == self._payload_bytes * n
                and self._state_crc(row) == row.crc
            )
        except (TypeError, ValueError, AttributeError):  # a damaged row may hold any type
            sound = False
        if not sound:
            raise StoreCorruptError(f"document {id_!r}: the stored row is damaged (id, lengths or CRC-32 do not match)")

    def check_document(self, row: DocumentRow) -> None:
        """Check one light row that was read.

        Raises:
            StoreCorruptError: If it is not as it was written.
        """
        try:
            sound = self._document_crc(row) == row.crc
        except (TypeError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise StoreCorruptError(
                f"document {row.id!r}: its text, metadata or pooled vector is damaged (CRC-32 does not match)"
            )


class Packer:
    """Joins checked rows into one buffer per column, with no tensor per document.

    Args:
        row_format: Of the store that the rows come from.
    """

    def __init__(self, row_format: RowFormat) -> None:
        self._format = row_format
        self._lengths: list[int] = []
        self._payload, self._scales, self._input_ids = bytearray(), bytearray(), bytearray()

    def add(self, row: StateRow) -> None:
        """Append one row; its bytes are copied while they are still in cache."""
        self._lengths.append(row.n_tokens)
        self._payload += row.payload
        self._scales += row.scales
        self._input_ids += row.input_ids

    def join(self, other: Packer) -> None:
        """Append everything that another one holds."""
        self._lengths += other._lengths
        self._payload += other._payload
        self._scales += other._scales
        self._input_ids += other._input_ids

    def packed(self) -> PackedStates:
        """All rows added, in order; to be called once, for the buffers become those of the tensors."""

        def tensor(buffer: bytearray, dtype: torch.dtype) -> Tensor:
            return torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)

        codec, width = self._format.codec, self._format.width
        return PackedStates(
            codec=codec.name,
            width=width,
            payload=tensor(self._payload, codec.dtype).view(-1, codec.columns(width)),
            scales=tensor(self._scales, torch.float16) if codec.scaled else None,
            lengths=torch.tensor(self._lengths, dtype=torch.int64),
            input_ids=tensor(self._input_ids, torch.int32).to(torch.int64),
        )


def read_pooled(blob: bytes) -> np.ndarray:
    """The vector in the ``pooled`` column of a checked row, ``(width of the backbone,)`` float16 or float32."""
    return np.frombuffer(blob, dtype=_POOLED_DTYPES[blob[:1]], offset=1)


def stack_pooled(ids: Sequence[str], vectors: Sequence[np.ndarray]) -> Tensor:
    """Vectors of all documents as one matrix.

    Returns:
        ``(n_documents, width of the backbone)``: float16 if all are, else float32.

    Raises:
        ValueError: If widths differ; the message names the first document that differs.
    """
    for id_, vector in zip(ids, vectors, strict=True):
        if vector.shape != vectors[0].shape:
            raise ValueError(f"document {id_!r}: pooled vector of {vector.size} values, others have {vectors[0].size}")
    if not vectors:
        return torch.empty(0, 0)
    return torch.from_numpy(np.stack(vectors).astype(np.result_type(*{v.dtype for v in vectors}), copy=False))
