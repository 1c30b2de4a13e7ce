"""Documents in chunks for the fast path: from memory or packed from a store, converted into one reused buffer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .states import DocumentStates


class Chunk(NamedTuple):
    """Some documents, ready for arithmetic.

    Attributes:
        positions: Where their scores belong.
        states: ``(n, s)`` each, in the compute dtype.
        input_ids: ``(n,)`` each.
        keys_values: ``(k, 2, H, n, d)`` each, in the dtype they are stored in, or None where they are not stored.
    """

    positions: list[int]
    states: list[Tensor]
    input_ids: list[Tensor]
    keys_values: list[Tensor] | None = None


def iterate_chunks(documents: Any, like: Tensor, count: int) -> Iterator[Chunk]:
    """Cut documents into chunks, in the dtype and on the device of ``like``.

    Args:
        documents: A sequence of ``DocumentStates``, or packed states; see ``interaction.score_documents``.
        like: Any tensor of the compute dtype, on the device.
        count: Documents in a chunk.
    """
    chunks = _chunks_of_packed if is_packed(documents) else _chunks_of_documents
    return chunks(documents, like, count)


def is_packed(documents: Any) -> bool:
    """Whether documents come packed in one flat buffer."""
    return hasattr(documents, "decode")


def check_width(documents: Any, width: int) -> None:
    """Refuse states that another model made.

    Raises:
        ValueError: If states are not ``width`` wide; the message names the first such document.
    """
    widths = [documents.width] if is_packed(documents) else [document.states.shape[1] for document in documents]
    for place, other in enumerate(widths):
        if other != width:
            raise ValueError(f"document {place}: states of {other} values a token, this model reads {width}.")


def mean_tokens(documents: Any) -> float:
    """Mean tokens of the documents."""
    if is_packed(documents):
        return float(documents.lengths.float().mean())
    return sum(len(document) for document in documents) / len(documents)


def _chunks_of_documents(documents: Sequence[DocumentStates], like: Tensor, count: int) -> Iterator[Chunk]:
    """Documents in memory, in chunks of ``count``; what is not in the compute dtype goes through a reused buffer."""
    buffer = ConversionBuffer(like)
    for start in range(0, len(documents), count):
        chunk = documents[start : start + count]
        states = buffer.convert([document.states for document in chunk])
        stored = [document.keys_values for document in chunk if document.keys_values is not None]
        keys_values = stored if len(stored) == len(chunk) else None
        ids = [document.input_ids.to(like.device) for document in chunk]
        yield Chunk(list(range(start, start + len(chunk))), states, ids, keys_values)


def _chunks_of_packed(packed: Any, like: Tensor, count: int) -> Iterator[Chunk]:
    """Packed states, decoded chunk by chunk into one buffer."""
    lengths = packed.lengths.tolist()
    ends = [0, *packed.lengths.cumsum(0).tolist()]
    longest = max(ends[min(start + count, len(lengths))] - ends[start] for start in range(0, len(lengths), count))
    buffer = torch.empty(longest, packed.width)
    for start in range(0, len(lengths), count):
        part = lengths[start : start + count]
        first, last = ends[start], ends[start + len(part)]
        states = packed.decode(first, last, buffer).to(device=like.device, dtype=like.dtype)
        ids = packed.input_ids[first:last].to(like.device)
        yield Chunk(list(range(start, start + len(part))), list(states.split(part)), list(ids.split(part)))


class ConversionBuffer:
    """Memory for one conversion, used again for the next: converting into fresh memory takes ten times as long."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.memory = like.new_empty(0)

    def convert(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors in the dtype and on the device of ``like``; themselves where they are so already."""
        like = self.like
        if all(tensor.dtype == like.dtype and tensor.device == like.device for tensor in tensors):
            return list(tensors)
        sizes = [tensor.numel() for tensor in tensors]
        if sum(sizes) > len(self.memory):
            self.memory = like.new_empty(sum(sizes))
        parts = self.memory[: sum(sizes)].split(sizes)
        return [part.view(tensor.shape).copy_(tensor) for part, tensor in zip(parts, tensors, strict=True)]
