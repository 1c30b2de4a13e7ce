"""The first stage over a store itself: its words with BM25, its pooled vectors with an exact search, or both fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .store import Store
from .where import Where
from .words import query_terms, why_no_terms

FirstStage = Literal["bm25", "vectors"]
FIRST_STAGES: tuple[FirstStage, ...] = ("bm25", "vectors")
ALIASES: dict[str, tuple[FirstStage, ...]] = {"pooled": ("vectors",), "both": FIRST_STAGES}
RANK_CONSTANT = 60  # of reciprocal rank fusion, as in Cormack, Clarke and Buettcher (SIGIR 2009)


@dataclass
class Candidates:
    """What a first stage found.

    Attributes:
        ids: Best first.
        notes: What a user should know: which stage found nothing, and why.
    """

    ids: list[str]
    notes: list[str] = field(default_factory=list)


def resolve_first_stage(name: str | Sequence[str] | None, has_pooled: bool) -> tuple[FirstStage, ...]:
    """The stages that a name or a list of names stands for.

    Args:
        name: ``"bm25"``, ``"vectors"``, a list of these, ``"both"``, or ``"pooled"``, an earlier name of ``"vectors"``;
            None is both for a model with the pooled residual, else ``"bm25"``.
        has_pooled: Whether the model has the pooled residual, and so vectors.

    Raises:
        ValueError: If there is no such stage, or the model has no vectors for it.
    """
    if name is None:
        return FIRST_STAGES if has_pooled else ("bm25",)
    stages: list[FirstStage] = []
    if not isinstance(name, str | Sequence):
        raise ValueError(f"first_stage: expected a name or a list of names, got {name!r}.")
    for each in [name] if isinstance(name, str) else list(name):
        if each not in FIRST_STAGES and each not in ALIASES:
            raise ValueError(f"first_stage: must be one of {', '.join((*FIRST_STAGES, *ALIASES))}, got {each!r}.")
        stages += ALIASES.get(each, (each,))  # type: ignore[arg-type]
    if not stages:
        raise ValueError("first_stage: the list of stages is empty.")
    if "vectors" in stages and not has_pooled:
        raise ValueError("first_stage: 'vectors' needs a model with the pooled residual; this one has none.")
    return tuple(dict.fromkeys(stages))


def find(
    store: Store,
    stages: Sequence[FirstStage],
    query: str,
    vector: Tensor | None,
    top_k: int,
    where: Where | None = None,
) -> Candidates:
    """Find candidates among the documents of a store, in one commit of it.

    Args:
        store: Open.
        stages: As ``resolve_first_stage`` gives them.
        query: Text of the query.
        vector: Its pooled vector, ``(width,)``; needed for ``"vectors"``.
        top_k: Largest number of documents.
        where: Only documents whose metadata satisfies it.
    """
    notes = []
    rankings: list[dict[str, float]] = []
    with store.reading():
        if not len(store):
            return Candidates([], ["the store is empty"])
        for stage in stages:
            if stage == "bm25":
                found = store.search_words(query, top_k, where)
                if not found:
                    notes.append(f"bm25 found nothing: {_why_no_words(store, query, where)}")
            else:
                assert vector is not None  # whoever asks for the stage has it
                found = store.search_vectors(vector, top_k, where)
                if not found:
                    notes.append("vectors found nothing: no document satisfies the filter")
            rankings.append(found)
    return Candidates(list(rankings[0] if len(rankings) == 1 else fuse(rankings, top_k)), notes)


def _why_no_words(store: Store, query: str, where: Where | None) -> str:
    tokenizer = store.settings.tokenizer
    if not query_terms(query, tokenizer):
        return why_no_terms(query, tokenizer)
    if where is not None:
        return "no document that satisfies the filter has a word of the query"
    return "no document has a word of the query"


def fuse(rankings: Sequence[Mapping[str, float]], top_k: int) -> dict[str, float]:
    """Reciprocal rank fusion: a document's score is the sum of ``1 / (60 + rank)`` over the rankings that have it.

    Args:
        rankings: Document id -> anything, best first.
        top_k: Largest number of documents.

    Returns:
        Document id -> fused score, best first; equal scores are ordered by id.
    """
    fused: dict[str, float] = {}
    for ranking in rankings:
        for rank, document_id in enumerate(ranking, start=1):
            fused[document_id] = fused.get(document_id, 0.0) + 1 / (RANK_CONSTANT + rank)
    return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0]))[:top_k])
