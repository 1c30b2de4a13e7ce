"""Re-ranking by vectors: the similarity of a bi-encoder, or ColBERT's MaxSim over those of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mice_st.data.collection import Collection
from mice_st.data.runs import Run, check_finite
from mice_st.evaluation.blocks import DOCUMENTS_AT_ONCE


@torch.inference_mode()
def encode_vectors(
    model: Any, batch_size: int, collection: Collection, candidates: Mapping[str, Iterable[str]]
) -> dict[str, torch.Tensor]:
    """Encode each candidate once.

    Args:
        model: A ``SentenceTransformer`` or a ``MultiVectorEncoder``.
        batch_size: Texts encoded at a time.
        collection: Texts.
        candidates: Query id -> document ids, or a run.

    Returns:
        Document id -> its vector ``(width,)``, or those of its tokens ``(tokens, width)``, on the model's device.
    """
    wanted = sorted({item for items in candidates.values() for item in items})
    # Like lengths together, in slices: the bar moves, and batches are hardly padded.
    wanted.sort(key=lambda item: len(collection.corpus[item]))
    vectors: dict[str, torch.Tensor] = {}
    with tqdm(total=len(wanted), desc="Encoding documents", unit="document", delay=2, leave=False) as progress:
        for start in range(0, len(wanted), DOCUMENTS_AT_ONCE):
            chunk = wanted[start : start + DOCUMENTS_AT_ONCE]
            texts = [collection.corpus[item] for item in chunk]
            vectors |= zip(chunk, model.encode_document(texts, **_settings(model, batch_size)), strict=True)
            progress.update(len(chunk))
    return vectors


@torch.inference_mode()
def rank_by_vectors(
    model: Any,
    batch_size: int,
    collection: Collection,
    candidates: Mapping[str, Iterable[str]],
    vectors: Mapping[str, torch.Tensor],
) -> Run:
    """Order candidates by the model's own similarity.

    Args:
        model: As for ``encode_vectors``, like the next three.
        batch_size: Texts encoded at a time.
        collection: Texts.
        candidates: Query id -> document ids, or a run.
        vectors: What ``encode_vectors`` gave.

    Returns:
        Query id -> document id -> score, best first.

    Raises:
        ValueError: If a score is not finite; names query and document.
    """
    query_ids = [query_id for query_id, items in candidates.items() if items]
    texts = [collection.queries[query_id] for query_id in query_ids]
    queries: list[torch.Tensor] = []
    with tqdm(total=len(texts), desc="Encoding queries", unit="query", delay=2, leave=False) as progress:
        for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
            chunk = texts[start : start + DOCUMENTS_AT_ONCE]
            queries += model.encode_query(chunk, **_settings(model, batch_size))
            progress.update(len(chunk))
    run: Run = {query_id: {} for query_id in candidates}
    for query_id, query in zip(query_ids, tqdm(queries, "Re-ranking", unit="query", delay=2, leave=False), strict=True):
        documents = [vectors[item] for item in candidates[query_id]]
        batch: Any = torch.stack(documents) if isinstance(model, SentenceTransformer) else documents
        scores = model.similarity(query.unsqueeze(0), batch)[0].tolist()
        scored = dict(zip(candidates[query_id], scores, strict=True))
        check_finite(query_id, scored)
        run[query_id] = dict(sorted(scored.items(), key=lambda item: -item[1]))
    return run


def _settings(model: Any, batch_size: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
    if isinstance(model, SentenceTransformer):
        settings["convert_to_tensor"] = True  # ColBERT gives a list of tensors by itself
    return settings
