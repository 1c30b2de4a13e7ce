"""Training from document states that were encoded once: what frozen contextualisation layers make possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Document
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.states.encoding import encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.identity import content_hash
from mice_st.states.memory import MemoryStates
from mice_st.states.store import Store
from mice_st.training.data import SOURCE_COLUMN

# Documents encoded at a time: bounds what is held in the model's own precision.
CHUNK = 1024
CODECS = {"float16": "fp16", "float32": "fp32", "int8": "int8", "int4": "int4"}


def encode_to_memory(
    model: MiceCrossEncoder, texts: Iterable[str], codec: str = "fp16", show_progress_bar: bool = True
) -> MemoryStates:
    """Encode each different text once.

    Args:
        model: The model; its contextualisation layers must not change while the states are in use.
        texts: Documents; equal ones are encoded once.
        codec: How the states are kept.
        show_progress_bar: Whether to show one where the work takes over two seconds.

    Returns:
        Text -> its states on the CPU, ``2 * tokens * hidden`` bytes each in fp16.

    Raises:
        ValueError: If a state is not finite under ``codec``; the message gives the start of the text.
    """
    different = sorted(set(texts), key=lambda text: (len(text), text))
    stored = MemoryStates(codec)
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
                stored.put(text, document)
            progress.update(len(chunk))
    return stored


class DiskStates(Mapping[str, DocumentStates]):
    """Text -> states in a store on disk, found by the hash of the text.

    Args:
        store: Open for reading.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, text: str) -> DocumentStates:
        return self._store.document(content_hash(text))

    def __iter__(self) -> Any:
        return (text for _, text in self._store.texts())

    def __len__(self) -> int:
        return len(self._store)


def encode_to_disk(
    model: MiceCrossEncoder, texts: Iterable[str], path: str, codec: str, show_progress_bar: bool = True
) -> DiskStates:
    """Encode each different text once into a store that a killed run goes on with.

    Args:
        model: As for ``encode_to_memory``.
        texts: Documents, read one after the other; a store of an earlier run keeps what it has.
        path: The store, see ``open_store``.
        codec: How the states are kept.
        show_progress_bar: Whether to show one where the work takes over two seconds.

    Raises:
        StoreMismatchError: If another model made the store; names the field.
    """
    made_by = fingerprint_of(model, codec)
    parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not parallel or torch.distributed.get_rank() == 0:  # a store has one writer
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open_store(path, made_by, read_only=False) as store:
            encode_corpus(model, _different(texts), store, show_progress_bar=show_progress_bar)
    if parallel:
        torch.distributed.barrier()
    return DiskStates(open_store(path, made_by, read_only=True))


def _different(texts: Iterable[str]) -> Iterable[Document]:
    """Each different text once; 32 bytes of hash in memory for each."""
    seen: set[bytes] = set()
    for text in texts:
        item_id = content_hash(text)
        if (key := bytes.fromhex(item_id)) not in seen:
            seen.add(key)
            yield Document(item_id, text)


@dataclass
class RerankerDataCollator(CrossEncoderDataCollator):
    """sentence-transformers' collator that lays rows out for our losses and puts stored states in the place of texts.

    Attributes:
        stored: Text -> states; empty: the texts stay. The query is never replaced.
        in_pairs: Whether the loss takes single pairs: each document of a row then makes one.
        temperature: The labels are divided by it.
    """

    stored: Mapping[str, DocumentStates] = field(default_factory=dict)
    in_pairs: bool = False
    temperature: float = 1.0

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: one list for each column, and ``label``."""
        if self.in_pairs:
            features = [
                {"query": row["query"], "document": document, "labels": label, SOURCE_COLUMN: row[SOURCE_COLUMN]}
                for row in features
                for document, label in zip(row["documents"], row["labels"], strict=True)
            ]
        batch: dict[str, Any] = super().__call__(features)
        if self.temperature != 1.0:
            batch["label"] = [torch.as_tensor(label) / self.temperature for label in batch["label"]]
        if not len(self.stored):
            return batch
        found: dict[
            str, DocumentStates
        ] = {}  # a text that is there twice is read once, and encoded texts stay one object
        for name, column in batch.items():
            if name not in ("query", "label", SOURCE_COLUMN):
                batch[name] = [self._swap(item, found) for item in column]
        return batch

    def _swap(self, item: str | list[str], found: dict[str, DocumentStates]) -> Any:
        if not isinstance(item, str):
            return [self._swap(text, found) for text in item]
        if item not in found:
            found[item] = self.stored[item]
        return found[item]
