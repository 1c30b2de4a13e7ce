"""Many documents' states in one flat buffer for ranking: one allocation per batch, decoded chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .codecs import Codec, get_codec

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


@dataclass(frozen=True)
class PackedStates:
    """The encoded states of several documents, one after the other.

    Attributes:
        codec: Name of the codec, see ``mice_st.states.codecs``.
        width: Values per token once decoded.
        payload: ``(total_tokens, columns)``: float32, float16, int8, or uint8 for int4.
        scales: ``(total_tokens,)`` float16, or None for fp32 and fp16.
        lengths: ``(n_documents,)`` int64, tokens of each document.
        input_ids: ``(total_tokens,)`` int64.
    """

    codec: str
    width: int
    payload: Tensor
    scales: Tensor | None
    lengths: Tensor
    input_ids: Tensor

    def __post_init__(self) -> None:
        total = self.payload.shape[0]
        columns = get_codec(self.codec).columns(self.width)
        if self.payload.shape != (total, columns) or self.input_ids.shape != (total,):
            raise ValueError(
                f"payload {tuple(self.payload.shape)} and input_ids {tuple(self.input_ids.shape)} do not fit "
                f"{self.codec} states {self.width} wide"
            )
        if self.lengths.ndim != 1 or int(self.lengths.sum()) != total:
            raise ValueError(f"lengths add up to {int(self.lengths.sum())} tokens, the payload has {total}")

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def from_documents(cls, documents: Sequence[DocumentStates], codec: str) -> PackedStates:
        """Encode documents that are in memory.

        Args:
            documents: At least one; all of one width.
            codec: Name of the codec.

        Raises:
            ValueError: If there is no document, widths differ, or a state cannot be encoded.
        """
        if not documents:
            raise ValueError("no documents: their width is unknown")
        states = torch.cat([document.states.to("cpu", torch.float32) for document in documents])
        payload, scales = get_codec(codec).encode(states)
        lengths = torch.tensor([len(document.input_ids) for document in documents])
        input_ids = torch.cat([document.input_ids.to("cpu", torch.int64) for document in documents])
        return cls(codec, states.shape[1], payload, scales, lengths, input_ids)

    @cached_property
    def offsets(self) -> list[int]:
        """First token of each document, and the total at the end; ``n_documents + 1`` of them."""
        return [0, *self.lengths.cumsum(0).tolist()]

    @property
    def nbytes(self) -> int:
        """Bytes of payload, scales and token ids in memory."""
        return self.payload.nbytes + (0 if self.scales is None else self.scales.nbytes) + self.input_ids.nbytes

    @property
    def _codec(self) -> Codec:
        return get_codec(self.codec)

    def decode(self, start: int, end: int, out: Tensor | None = None) -> Tensor:
        """States of the tokens ``start`` to ``end`` (excluded), over document borders.

        Args:
            start: First token.
            end: One past the last token.
            out: Optional float32 buffer, ``(at least end - start, width)``, to be used again for each chunk.

        Returns:
            ``(end - start, width)`` float32: the first rows of ``out`` where it is given.

        Raises:
            ValueError: If the range lies outside the tokens, or ``out`` does not fit.
        """
        if not 0 <= start <= end <= self.payload.shape[0]:
            raise ValueError(f"tokens {start} to {end} lie outside the {self.payload.shape[0]} there are")
        scales = None if self.scales is None else self.scales[start:end]
        return self._codec.decode(self.payload[start:end], scales, self.width, out)

    def document(self, index: int) -> DocumentStates:
        """One document, decoded to float32.

        Raises:
            IndexError: If there is no such document.
        """
        from mice_st.modeling.layers_mice import DocumentStates  # late: reading needs no model

        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        start, end = self.offsets[index : index + 2]
        return DocumentStates(states=self.decode(start, end), input_ids=self.input_ids[start:end])

    def to(self, device: torch.device | str) -> PackedStates:
        """The same documents on ``device``; lengths stay on the CPU, where loops read them."""
        return replace(
            self,
            payload=self.payload.to(device),
            scales=None if self.scales is None else self.scales.to(device),
            input_ids=self.input_ids.to(device),
        )
