"""Training from document states that were encoded once: what frozen contextualisation layers make possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.modeling.modeling_mice import DocumentStates
from mice_st.training.data import SOURCE_COLUMN

# Documents encoded at a time: bounds what is held in the model's own precision.
CHUNK = 1024


def encode_to_memory(
    model: MiceCrossEncoder, texts: Iterable[str], dtype: torch.dtype = torch.float16, show_progress_bar: bool = True
) -> dict[str, DocumentStates]:
    """Encode each different text once.

    Args:
        model: The model; its contextualisation layers must not change while the states are in use.
        texts: Documents; equal ones are encoded once.
        dtype: Precision to keep the states in.
        show_progress_bar: Whether to show one where the work takes over two seconds.

    Returns:
        Text -> its states on the CPU, ``2 * tokens * hidden`` bytes each in float16.

    Raises:
        ValueError: If a state is not finite in ``dtype``; the message gives the start of the text.
    """
    different = sorted(set(texts), key=len)
    stored: dict[str, DocumentStates] = {}
    progress = tqdm(
        total=len(different),
        desc="Encoding documents",
        unit="document",
        delay=2,
        leave=False,
        disable=not show_progress_bar,
    )
    with progress:
        for start in range(0, len(different), CHUNK):
            chunk = different[start : start + CHUNK]
            for text, document in zip(chunk, model.encode_documents(chunk, show_progress_bar=False), strict=True):
                states = document.states.to(device="cpu", dtype=dtype)
                if not bool(states.isfinite().all()):
                    raise ValueError(f"the states of document {text[:40]!r} are not finite in {dtype}")
                stored[text] = DocumentStates(states, document.input_ids.cpu())
            progress.update(len(chunk))
    return stored


@dataclass
class RerankerDataCollator(CrossEncoderDataCollator):
    """sentence-transformers' collator that puts stored states in the place of documents' texts.

    Attributes:
        stored: Text -> states; empty: the texts stay. The query is never replaced.
    """

    stored: Mapping[str, DocumentStates] = field(default_factory=dict)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: one list for each column, and ``label``."""
        batch: dict[str, Any] = super().__call__(features)
        if not self.stored:
            return batch
        for name, column in batch.items():
            if name not in ("query", "label", SOURCE_COLUMN):
                batch[name] = [self._swap(item) for item in column]
        return batch

    def _swap(self, item: str | list[str]) -> Any:
        return self.stored[item] if isinstance(item, str) else [self.stored[text] for text in item]
