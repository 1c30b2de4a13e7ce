"""The first stage over a store itself: its texts with BM25, its pooled vectors with an exact search, or both fused.

What a search needs of a store is read once and kept in memory with the store object; a store that has changed since is
to be opened anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary, ref

import torch.nn.functional as F
from torch import Tensor

from mice_st.data.first_stage import BM25

from .store import Store

FirstStage = Literal["bm25", "pooled", "both"]
FIRST_STAGES: tuple[FirstStage, ...] = ("bm25", "pooled", "both")
RANK_CONSTANT = 60  # of reciprocal rank fusion, as in Cormack, Clarke and Buettcher (SIGIR 2009)

_searches: WeakKeyDictionary[Store, StoreSearch] = WeakKeyDictionary()


def search_of(store: Store) -> StoreSearch:
    """The search of a store object; the same one each time, so that its indexes are built once."""
    if store not in _searches:
        _searches[store] = StoreSearch(store)
    return _searches[store]


class StoreSearch:
    """Finds candidates among the documents of a store.

    Args:
        store: Open for reading or writing; what it holds at the first search is what all searches see.
    """

    def __init__(self, store: Store) -> None:
        self._store = ref(store)  # a strong reference would keep every store that was ever searched

    def _open_store(self) -> Store:
        store = self._store()
        assert store is not None  # whoever searches holds it
        return store

    @cached_property
    def _bm25(self) -> BM25:
        return BM25(dict(self._open_store().texts()))

    @cached_property
    def _vectors(self) -> tuple[list[str], Tensor]:
        """Ids in sorted order, so that ties fall the same way in every store, and their unit vectors, float32."""
        ids, vectors = self._open_store().pooled()
        order = sorted(range(len(ids)), key=ids.__getitem__)
        return [ids[position] for position in order], F.normalize(vectors[order].float(), dim=-1)

    def bm25(self, query: str, top_k: int) -> dict[str, float]:
        """The best documents by BM25 over the stored texts, best first, without those that share no word with the query.

        Args:
            query: The query's text.
            top_k: Largest number of documents.

        Raises:
            ImportError: If bm25s is not installed; names the extra.
            StoreError: If a document was put without its text.
        """
        return self._bm25.search({"": query}, top_k)[""]

    def pooled(self, query: Tensor, top_k: int) -> dict[str, float]:
        """The best documents by the cosine of pooled vectors, best first, found by one matrix product.

        Args:
            query: Pooled vector of the query, ``(width,)``, any floating dtype.
            top_k: Largest number of documents.

        Raises:
            StoreError: If a document was put without a pooled vector.
        """
        ids, vectors = self._vectors
        scores = vectors @ F.normalize(query.detach().float().cpu(), dim=-1)
        order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        return {ids[position]: float(scores[position]) for position in order}


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
