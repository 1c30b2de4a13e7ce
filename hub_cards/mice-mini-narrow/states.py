"""What passes between the stages of MICE: contextualised texts, padded in a batch or one document at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass
class DocumentStates:
    """One document after the contextualisation layers: all that ranking needs of it.

    Attributes:
        states: ``(n_tokens, hidden)``, float32, float16 or bfloat16; [CLS] and [SEP] included. Where each interaction
            layer reads states of its own (``document_states="per_layer"``) these lie side by side, ``(n_tokens,
            layers that read them * hidden)``, so that codecs and stores see nothing but a wider state.
        input_ids: ``(n_tokens,)``, int64; the exact-match heads compare them with the query's.
        keys_values: ``(interaction layers, 2, heads, n_tokens, width per head)`` from ``project_documents``, or None.
    """

    states: Tensor
    input_ids: Tensor
    keys_values: Tensor | None = None

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.input_ids.shape != self.states.shape[:1] or len(self.states) == 0:
            raise ValueError(
                f"DocumentStates: states {tuple(self.states.shape)} and input_ids {tuple(self.input_ids.shape)} "
                "must be (n_tokens, hidden) and (n_tokens,) with at least one token."
            )

    def __len__(self) -> int:
        return len(self.input_ids)


class EncodedTexts(NamedTuple):
    """A padded batch of contextualised texts.

    Attributes:
        states: ``(N, S, hidden)``, the model's dtype; what padding holds is never read.
        attention_mask: ``(N, S)``, bool, True at tokens.
        input_ids: ``(N, S)``, int64.
    """

    states: Tensor
    attention_mask: Tensor
    input_ids: Tensor

    def select(self, index: Tensor) -> "EncodedTexts":
        """The texts at ``index`` ``(B,)``, int64, in that order, repeated where it repeats."""
        return EncodedTexts(self.states[index], self.attention_mask[index], self.input_ids[index])

    def unpad(self) -> list[DocumentStates]:
        """One ``DocumentStates`` per text, each with memory of its own."""
        return [
            DocumentStates(states[mask], ids[mask])
            for states, mask, ids in zip(self.states, self.attention_mask, self.input_ids, strict=True)
        ]

    @classmethod
    def pad(cls, documents: Sequence[DocumentStates], dtype: torch.dtype, device: torch.device) -> "EncodedTexts":
        """The inverse of ``unpad``, in ``dtype`` on ``device``."""
        states = [document.states.to(device=device, dtype=dtype) for document in documents]
        ids = [document.input_ids.to(device) for document in documents]
        mask = [torch.ones(len(document), dtype=torch.bool, device=device) for document in documents]
        pad = nn.utils.rnn.pad_sequence
        return cls(pad(states, batch_first=True), pad(mask, batch_first=True), pad(ids, batch_first=True))
