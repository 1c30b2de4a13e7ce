"""The documents of a workload in every form that a system keeps them in: texts, states per codec, stores, vectors."""

from __future__ import annotations

import hashlib
import time
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mice_st.modeling.layers_mice import DocumentStates
from mice_st.research.benchmark.models import Models
from mice_st.research.benchmark.workloads import Words, document_lengths
from mice_st.states.identity import Fingerprint
from mice_st.states.packed import PackedStates
from mice_st.states.sqlite_store import SqliteStore

VECTOR_WIDTH = 128  # of ColBERT's token vectors


class Corpus:
    """Documents, encoded once; each further form is made when it is first asked for.

    Args:
        models: The models.
        lengths: As in ``Workload``.
        count: Documents.
        folder: Where stores are written.
        seed: Of the texts.
    """

    def __init__(self, models: Models, lengths: str, count: int, folder: Path, seed: int = 0) -> None:
        self.models = models
        self.name = f"{lengths}-{count}"
        self.folder = folder
        self.lengths = document_lengths(lengths, count)
        self.texts = Words(models.tokenizer).texts(self.lengths, seed)
        self.ids = [f"document-{place:05d}" for place in range(count)]
        self.seed = seed
        self._packed: dict[tuple[str, str], PackedStates] = {}

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a document."""
        return sum(self.lengths) / len(self.lengths)

    @cached_property
    def encoded(self) -> tuple[PackedStates, float]:
        """The wide model's states, float32, and the seconds that encoding took with torch's threads of that moment."""
        self.models.wide.encode_documents(self.texts[:2], show_progress_bar=False)  # warm-up
        began = time.perf_counter()
        documents = self.models.wide.encode_documents(self.texts)
        seconds = time.perf_counter() - began
        if [len(document) for document in documents] != self.lengths:
            raise ValueError(f"{self.name}: the texts do not have the tokens that they were made for")
        return PackedStates.from_documents(documents, "fp32"), seconds

    def packed(self, variant: str, codec: str) -> PackedStates:
        """All states in one buffer.

        Args:
            variant: ``"wide"`` or ``"narrow"``.
            codec: Name of the codec.
        """
        key = (variant, codec)
        if key in self._packed:
            return self._packed[key]
        if key == ("wide", "fp32"):
            made = self.encoded[0]
        elif codec == "fp32":
            wide = self.packed("wide", "fp32")
            projection = self.models.narrow.mice.document_projection
            assert projection is not None  # the narrow model has one
            with torch.inference_mode():
                payload = projection(wide.payload)
            made = PackedStates("fp32", payload.shape[1], payload, None, wide.lengths, wide.input_ids)
        else:
            made = PackedStates.from_documents(self.documents(variant), codec)
        self._packed[key] = made
        return made

    def documents(self, variant: str, codec: str = "fp32") -> list[DocumentStates]:
        """One by one, in float32; without a codec they are views of the packed states."""
        packed = self.packed(variant, codec)
        if codec != "fp32":
            return [packed.document(index) for index in range(len(packed))]
        parts = zip(packed.payload.split(self.lengths), packed.input_ids.split(self.lengths), strict=True)
        return [DocumentStates(states, ids) for states, ids in parts]

    @cached_property
    def half_documents(self) -> list[DocumentStates]:
        """One by one, kept in float16."""
        return [DocumentStates(document.states.half(), document.input_ids) for document in self.documents("wide")]

    @cached_property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """ColBERT's token vectors, padded ``(documents, longest, 128)`` float32, and their mask.

        Random and of unit length: what MaxSim costs does not depend on them.
        """
        generator = torch.Generator().manual_seed(self.seed)
        longest = max(self.lengths)
        vectors = torch.randn(len(self.lengths), longest, VECTOR_WIDTH, generator=generator)
        mask = torch.arange(longest) < torch.tensor(self.lengths).unsqueeze(1)
        return torch.nn.functional.normalize(vectors, dim=-1) * mask.unsqueeze(-1), mask

    def store(self, variant: str, codec: str) -> Path:
        """A SQLite store of all states, written when it is first asked for."""
        path = self.folder / f"{self.name}-{variant}-{codec}.sqlite"
        if path.exists():
            return path
        documents = self.documents(variant)
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in self.texts]
        with SqliteStore(path, self._fingerprint(variant, codec), read_only=False) as store:
            store.put(self.ids, documents, hashes)
        return path

    def _fingerprint(self, variant: str, codec: str) -> Fingerprint:
        """Stands for the random weights: the seed that they come from."""
        config = self.models.mice(variant).mice.config
        made_by = hashlib.sha256(f"{variant} {self.models.seed}".encode()).hexdigest()
        return Fingerprint(
            weights_sha256=made_by,
            tokenizer_sha256=hashlib.sha256(str(len(self.models.tokenizer)).encode()).hexdigest(),
            layer=config.contextualization_layers,
            max_length=config.document_max_length,
            prompt="",
            dtype="float32",
            codec=codec,
            width=config.interaction_width,
        )
