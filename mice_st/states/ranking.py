"""Ranking the documents of a store: candidates by id or from a first stage, states read and scored some documents at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.st_mice import MiceTransformer

from .errors import StoreError, UnknownDocumentError
from .fingerprint import fingerprint_of, model_name
from .first_stage import find, resolve_first_stage
from .passages import score_passages
from .store import Store
from .where import Where

READ_DOCUMENTS = 128  # states in memory at once: 50 MB for 512 tokens, 384 wide, float16


class Ranking(list[dict[str, Any]]):
    """Ranked documents, and what is to be said about them.

    Attributes:
        notes: Which first stage found nothing, and why.
        dropped: Documents that vanished between the first stage and the ranking.
    """

    notes: list[str]
    dropped: int

    def __init__(self, entries: Iterable[dict[str, Any]] = (), notes: Sequence[str] = (), dropped: int = 0) -> None:
        super().__init__(entries)
        self.notes = list(notes)
        self.dropped = dropped


def rank_store(
    module: MiceTransformer,
    store: Store,
    query: str,
    *,
    prompt: str = "",
    ids: Sequence[str] | None = None,
    unknown: Literal["raise", "drop"] = "raise",
    first_stage: str | Sequence[str] | None = None,
    candidates: int = 100,
    where: Mapping[str, Any] | Where | None = None,
    top_k: int | None = None,
    return_documents: bool = False,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    activation_fn: Callable[[Tensor], Tensor] | None = None,
) -> Ranking:
    """Rank documents of a store for one query, all of it in one commit of the store.

    Args:
        module: The model that made the store.
        store: Open for reading or writing.
        query: The query.
        prompt: Put before the query for the model; the first stage's words do not see it.
        ids: Documents to rank; None ranks what the first stage finds.
        unknown: What to do about ``ids`` that the store does not have: refuse them, or drop and count them.
        first_stage: ``"bm25"``, ``"vectors"`` or a list of them, fused by reciprocal rank; see ``resolve_first_stage``.
        candidates: Documents that the first stage is to find; at least ``top_k``.
        where: Only documents whose metadata satisfies it, before the first stage; see ``Where``.
        top_k: How many to return; None returns all.
        return_documents: Put the stored text under ``text``, and metadata, where there is some, under ``metadata``.
        batch_size: Documents scored at a time.
        show_progress_bar: None shows one where the work takes over two seconds.
        activation_fn: Applied to the logits, float32.

    Returns:
        Dictionaries with ``corpus_id`` (the document's id), ``score`` (a Python float) and perhaps ``text``, best first;
        documents of equal score in the order of ``ids``, or of the first stage.

    Raises:
        UnknownDocumentError: If the store has no such document; names all of them.
        StoreMismatchError: If another model, or other settings of it, made the store; names the field.
        StoreMovedError: If the store has been moved to another model since it was opened.
        ValueError: If arguments contradict each other, or a score is not finite.
    """
    if ids is not None and (first_stage is not None or where is not None):
        raise ValueError("first_stage and where: ids are given, so there is nothing to search for.")
    if isinstance(ids, str):
        raise ValueError(f"ids: expected a list of ids, got the string {ids!r}.")
    for name, text in (("query", query), ("prompt", prompt)):
        if not isinstance(text, str):
            raise ValueError(f"{name}: expected a string, got {text!r}.")
    for name, value in (("batch_size", batch_size), ("candidates", candidates), ("top_k", top_k)):
        if value is None and name == "top_k":
            continue
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}.")
    made_by = store.fingerprint
    made_by.check(fingerprint_of(module, made_by.codec, made_by.prompt), store.settings.model, model_name(module))
    stages = () if ids is not None else resolve_first_stage(first_stage, module.model.config.pooled_residual)
    condition = Where(where) if where is not None and not isinstance(where, Where) else where
    encoded = encode_query(module, prompt + query)
    vector = module.model.pool_queries(encoded)[0] if "vectors" in stages else None
    notes: list[str] = []
    ids = None if ids is None else list(ids)
    with store.reading():
        if ids is None:
            found = find(store, stages, query, vector, max(candidates, top_k or 0), condition)
            ids, notes, unknown = found.ids, found.notes, "drop"
        known, scores = score_store(module, store, encoded, ids, batch_size, show_progress_bar, unknown)
        if activation_fn is not None:
            scores = activation_fn(scores)
            refuse_not_finite(scores)
        ranked = sorted(zip(known, scores.tolist(), strict=True), key=lambda pair: pair[1], reverse=True)[:top_k]
        results: list[dict[str, Any]] = [{"corpus_id": id_, "score": score} for id_, score in ranked]
        if return_documents:
            _add_texts(store, results)
    return Ranking(results, notes, len(ids) - len(known))


def _add_texts(store: Store, results: list[dict[str, Any]]) -> None:
    ids = [result["corpus_id"] for result in results]
    for result, row in zip(results, store.checked_documents(ids), strict=True):
        if row.text is None:
            raise StoreError(f"document {row.id!r} was put without its text")
        result["text"] = row.text
        if row.metadata is not None:
            result["metadata"] = json.loads(row.metadata)


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


@torch.no_grad()
def score_store(
    module: MiceTransformer,
    store: Store,
    query: EncodedTexts,
    ids: Sequence[str],
    batch_size: int,
    show_progress_bar: bool | None = None,
    unknown: Literal["raise", "drop"] = "raise",
) -> tuple[list[str], Tensor]:
    """Logits of stored documents; see ``rank_store`` for the arguments and errors.

    Returns:
        The ids that the store has, in the order of ``ids``, and their logits, ``(n,)``, float32.
    """
    several = len(ids) > READ_DOCUMENTS  # then all unknown ones are named before anything is scored
    if unknown == "raise" and several and (missing := store.missing(ids)):
        raise UnknownDocumentError(missing)
    known: list[str] = []
    scores: list[Tensor] = [torch.empty(0, device=query.states.device, dtype=torch.float32)]
    with tqdm(
        total=len(ids),
        desc="Documents",
        unit="document",
        disable=show_progress_bar is False,
        delay=0 if show_progress_bar else 2,
    ) as progress:
        for start in range(0, len(ids), READ_DOCUMENTS):
            there, states = store.get_known(list(ids[start : start + READ_DOCUMENTS]))
            if unknown == "raise" and len(known) + len(there) < min(start + READ_DOCUMENTS, len(ids)):
                raise UnknownDocumentError(store.missing(ids))
            known += there
            scores.append(score_passages(module.model, query, states, batch_size))
            progress.update(len(there))
    return known, torch.cat(scores)
