"""Ranking the documents of a store: candidates by id or from a first stage, states read and scored some documents at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.st_mice import MiceTransformer

from .errors import UnknownDocumentError
from .fingerprint import fingerprint_of
from .passages import score_passages
from .retrieval import FIRST_STAGES, fuse, search_of
from .store import Store

READ_DOCUMENTS = 128  # states in memory at once: 50 MB for 512 tokens, 384 wide, float16


def rank_store(
    module: MiceTransformer,
    store: Store,
    query: str,
    *,
    prompt: str = "",
    ids: Sequence[str] | None = None,
    first_stage: str | None = None,
    candidates: int = 100,
    top_k: int | None = None,
    return_documents: bool = False,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    activation_fn: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Rank documents of a store for one query.

    Args:
        module: The model that made the store.
        store: Open for reading or writing.
        query: The query.
        prompt: Put before the query for the model; BM25 does not see it.
        ids: Documents to rank; None ranks what the first stage finds.
        first_stage: ``"bm25"``, ``"pooled"`` or ``"both"``; None is ``"both"`` for a model with the pooled residual, else ``"bm25"``.
        candidates: Documents that the first stage is to find; at least ``top_k``.
        top_k: How many to return; None returns all.
        return_documents: Put the stored text under ``text``.
        batch_size: Documents scored at a time.
        show_progress_bar: None shows one where the work takes over two seconds.
        activation_fn: Applied to the logits, float32.

    Returns:
        Dictionaries with ``corpus_id`` (the document's id), ``score`` (a Python float) and perhaps ``text``, best first.

    Raises:
        UnknownDocumentError: If the store has no such document; names all of them.
        StoreMismatchError: If another model, or other settings of it, made the store; names the field.
        ValueError: If arguments contradict each other, the store is empty, or a score is not finite.
    """
    if ids is not None and first_stage is not None:
        raise ValueError("first_stage: ids are given, so there is nothing to search for.")
    if isinstance(ids, str):
        raise ValueError(f"ids: expected a list of ids, got the string {ids!r}.")
    if batch_size < 1 or candidates < 1:
        raise ValueError(f"batch_size and candidates must be at least 1, got {batch_size} and {candidates}.")
    made_by = store.fingerprint
    made_by.check(fingerprint_of(module, made_by.codec, made_by.prompt))
    encoded = encode_query(module, prompt + query)
    if ids is None:
        ids = find_candidates(module, store, query, encoded, first_stage, max(candidates, top_k or 0))
    scores = score_store(module, store, encoded, ids, batch_size, show_progress_bar)
    if activation_fn is not None:
        scores = activation_fn(scores)
    refuse_not_finite(scores)
    ranked = sorted(zip(ids, scores.tolist(), strict=True), key=lambda pair: pair[1], reverse=True)[:top_k]
    results: list[dict[str, Any]] = [{"corpus_id": id_, "score": score} for id_, score in ranked]
    if return_documents:
        for result, (_, text) in zip(results, store.texts([id_ for id_, _ in ranked]), strict=True):
            result["text"] = text
    return results


def refuse_not_finite(scores: Tensor) -> None:
    """Refuse scores that order nothing; the model checks its logits, but not what an activation makes of them.

    Args:
        scores: ``(n,)``, any floating dtype.

    Raises:
        ValueError: If a score is NaN or infinite; names the rows.
    """
    if not bool(scores.isfinite().all()):
        rows = (~scores.isfinite()).reshape(len(scores), -1).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"Scores are not finite in rows {rows[:10]}: the activation function makes them so.")


def encode_query(module: MiceTransformer, query: str) -> EncodedTexts:
    """One contextualised query, a batch of one."""
    ids = module.tokenize_side([query], "query", ["the query"])
    module.report_cut_texts()
    ((_, encoded),) = module.encode_ids(ids, "query")
    return encoded


def find_candidates(
    module: MiceTransformer, store: Store, query: str, encoded: EncodedTexts, first_stage: str | None, count: int
) -> list[str]:
    """Ids of what the first stage finds, best first; see ``rank_store`` for the arguments.

    Raises:
        ValueError: If there is no such first stage, the model has no pooled vectors for it, or the store is empty.
    """
    has_pooled = module.model.config.pooled_residual
    first_stage = first_stage or ("both" if has_pooled else "bm25")
    if first_stage not in FIRST_STAGES:
        raise ValueError(f"first_stage: must be one of {', '.join(FIRST_STAGES)}, got {first_stage!r}.")
    if first_stage != "bm25" and not has_pooled:
        raise ValueError(f"first_stage: {first_stage!r} needs a model with the pooled residual; this one has none.")
    if not len(store):
        raise ValueError("the store is empty: there is nothing to search.")
    search = search_of(store)
    found = []
    if first_stage != "pooled":
        found.append(search.bm25(query, count))
    if first_stage != "bm25":
        found.append(search.pooled(module.model.pool_queries(encoded)[0], count))
    return list(found[0] if len(found) == 1 else fuse(found, count))


@torch.no_grad()
def score_store(
    module: MiceTransformer,
    store: Store,
    query: EncodedTexts,
    ids: Sequence[str],
    batch_size: int,
    show_progress_bar: bool | None = None,
) -> Tensor:
    """Logits of stored documents, ``(len(ids),)``, float32; see ``rank_store`` for the arguments and errors."""
    if len(ids) > READ_DOCUMENTS and (unknown := store.missing(ids)):
        raise UnknownDocumentError(unknown)  # all of them, before anything is scored
    scores = torch.empty(len(ids), device=query.states.device, dtype=torch.float32)
    with tqdm(
        total=len(ids),
        desc="Documents",
        unit="document",
        disable=show_progress_bar is False,
        delay=0 if show_progress_bar else 2,
    ) as progress:
        for start in range(0, len(ids), READ_DOCUMENTS):
            part = list(ids[start : start + READ_DOCUMENTS])
            scores[start : start + len(part)] = score_passages(module.model, query, store.get(part), batch_size)
            progress.update(len(part))
    return scores
