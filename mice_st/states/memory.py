"""Document states kept in memory as a codec stores them, by a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .codecs import get_codec

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class MemoryStates(Mapping[str, "DocumentStates"]):
    """Key -> states, encoded: fp16 takes ``2 * tokens * width`` bytes a document, int8 ``tokens * (width + 2)``.

    What is read back is what a store with this codec would give, so that training and measuring see the rounding.

    Args:
        codec: ``"fp32"``, ``"fp16"``, ``"int8"`` or ``"int4"``.
    """

    def __init__(self, codec: str) -> None:
        self._codec = get_codec(codec)
        self._encoded: dict[str, tuple[Tensor, Tensor | None, Tensor, int]] = {}

    def put(self, key: str, document: DocumentStates) -> None:
        """Keep one document.

        Raises:
            ValueError: If a state is not finite or beyond the codec; names the key's beginning.
        """
        try:
            payload, scales = self._codec.encode(document.states)
        except ValueError as error:
            raise ValueError(f"document {key[:40]!r} is not finite in {self._codec.name}: {error}") from error
        # A copy: an encoded view would keep the whole batch alive that it was cut from.
        ids = document.input_ids.to("cpu", torch.int32, copy=True)
        self._encoded[key] = (payload.clone(), scales, ids, document.states.shape[1])

    def __getitem__(self, key: str) -> DocumentStates:
        from mice_st.modeling.layers_mice import DocumentStates  # late

        payload, scales, ids, width = self._encoded[key]
        states = payload if self._codec.dtype.is_floating_point else self._codec.decode(payload, scales, width)
        return DocumentStates(states, ids.long())

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)
