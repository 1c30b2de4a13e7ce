"""Teachers: models whose scores a student learns, alone or together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean, pstdev
from typing import Any

import torch

from mice_st.loading import load_model, model_kind
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of
from mice_st.training.stored_states import CODECS, DiskStates, encode_to_disk

# Training's own default, so that a student that starts as the teacher reads the same store.
STORED_CODEC = CODECS["float16"]


class Teachers:
    """One or several models that score a query's documents.

    Args:
        names: Folders or Hub ids: cross-encoders, MICE, bi-encoders or ColBERT.
        device: Where they compute; None takes the best there is.
        max_length: Longest document or pair, in tokens.
        batch_size: Pairs or texts computed at a time.
        standardize: Scores are made comparable for each query: mean 0, standard deviation 1. Always done with several
            teachers.
        bf16: Whether they compute in mixed precision.
        trust_remote_code: Whether code beside their weights is run.
    """

    def __init__(
        self,
        names: Sequence[str],
        device: str | None = None,
        max_length: int | None = None,
        batch_size: int = 64,
        standardize: bool = False,
        bf16: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.names = list(names)
        self._models = [(model_kind(name), load_model(name, device, max_length, trust_remote_code)) for name in names]
        self._batch_size = batch_size
        self._standardize = standardize or len(names) > 1
        self._bf16 = bf16
        self._stored: Mapping[str, Any] = {}

    def read_states(self, path: str, texts: Iterable[str] | None = None) -> None:
        """Let the one MICE among the teachers read its documents from a store that holds each different text once.

        Args:
            path: The store, see ``open_store``; training from frozen layers that starts as this teacher finds them
                there too.
            texts: Documents to encode first where the store lacks them; None: it has all.

        Raises:
            ValueError: If not exactly one of the teachers is MICE.
            StoreMismatchError: If another model made the store; names the field.
        """
        models = [model for kind, model in self._models if kind == "mice"]
        if len(models) != 1:
            raise ValueError(f"stored_states_file: needs one MICE among the teachers, got {len(models)}")
        if texts is None:
            made_by = fingerprint_of(models[0], STORED_CODEC)
            self._stored = DiskStates(open_store(path, made_by, read_only=True))
        else:
            with torch.autocast(models[0].device.type, torch.bfloat16, enabled=self._bf16):
                self._stored = encode_to_disk(models[0], texts, path, STORED_CODEC)

    def score(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score the documents of each query.

        Args:
            queries: ``(n,)``.
            documents: For each query, its documents; each text is encoded once where the teacher encodes texts alone.

        Returns:
            For each query one score per document: a single teacher's raw scores, or the mean of several teachers'
            scores that were standardised for each query first. Where all documents of a query have one score, its
            standardised scores are 0.

        Raises:
            ValueError: If a score is not finite; names the teacher, the query and the document.
        """
        by_teacher = []
        for name, (kind, model) in zip(self.names, self._models, strict=True):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self._bf16):
                if kind in ("mice", "cross_encoder"):
                    scored = self._score_pairs(model, queries, documents, self._stored if kind == "mice" else {})
                else:
                    scored = self._score_vectors(model, queries, documents)
            for query, texts, scores in zip(queries, documents, scored, strict=True):
                for text, score in zip(texts, scores, strict=True):
                    if not math.isfinite(score):
                        raise ValueError(
                            f"teacher {name}: query {query[:60]!r}, document {text[:60]!r}: the score is {score}"
                        )
            by_teacher.append([standardize(scores) for scores in scored] if self._standardize else scored)
        if len(by_teacher) == 1:
            return by_teacher[0]
        return [[fmean(scores) for scores in zip(*rows, strict=True)] for rows in zip(*by_teacher, strict=True)]

    def _score_pairs(
        self, model: Any, queries: Sequence[str], documents: Sequence[Sequence[str]], stored: Mapping[str, Any]
    ) -> list[list[float]]:
        found = {text: stored[text] for text in dict.fromkeys(chain.from_iterable(documents))} if stored else {}
        pairs = [
            (query, found.get(text, text)) for query, texts in zip(queries, documents, strict=True) for text in texts
        ]
        flat = iter(
            model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False).tolist() if pairs else []
        )
        return [[next(flat) for _ in texts] for texts in documents]

    @torch.inference_mode()
    def _score_vectors(
        self, model: Any, queries: Sequence[str], documents: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        encode = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": False}
        different = list(dict.fromkeys(text for texts in documents for text in texts))
        vectors = dict(zip(different, model.encode_document(different, **encode), strict=True))
        encoded = model.encode_query(list(queries), **encode)
        scores = []
        for query, texts in zip(encoded, documents, strict=True):
            scores.append(model.similarity([query], [vectors[text] for text in texts])[0].tolist() if texts else [])
        return scores


def standardize(scores: Sequence[float]) -> list[float]:
    """Scores with mean 0 and standard deviation 1; zeros where all are equal."""
    mean, deviation = fmean(scores), pstdev(scores)
    return [(score - mean) / deviation if deviation > 0 else 0.0 for score in scores]
