"""The costs of each system of an evaluation: milliseconds per query, and bytes for each token of a stored document.

Times are taken query by query, all systems taking turns at each query, so that a busy moment of the machine hits all of
them alike. They are never kept: the same evaluation again reads its figures from the cache and takes the times anew.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mice_st.evaluation.reranking import encode_candidates, rank_candidates
from mice_st.evaluation.suites import CandidateSet
from mice_st.evaluation.systems import System
from mice_st.states.codecs import get_codec

# Vectors of ColBERT and of bi-encoders are counted as fp16, which is how they are stored in practice.
VECTOR_BYTES = 2


@dataclass
class _Spent:
    """Times and sizes of one system so far."""

    milliseconds: list[float] = field(default_factory=list)
    stored_bytes: int = 0
    tokens: int = 0

    def costs(self) -> dict[str, float | None]:
        return {
            "ms_per_query": median(self.milliseconds) if self.milliseconds else None,
            "bytes_per_token": self.stored_bytes / self.tokens if self.stored_bytes else None,
        }


class Costs:
    """Times every system on the same queries, documents encoded beforehand where the model can.

    Args:
        queries: Queries of each set, drawn with ``seed`` from those with candidates; one more warms up and does not
            count.
        seed: Of the drawing.
        batch_size: Pairs or texts computed at a time.
    """

    def __init__(self, queries: int, seed: int, batch_size: int) -> None:
        self._queries, self._seed, self._batch_size = queries, seed, batch_size
        self._spent: dict[str, _Spent] = {}

    def measure(self, systems: Sequence[System], models: Mapping[str, Any], entry: CandidateSet) -> None:
        """Let the systems take turns at some queries of a set.

        Args:
            systems: What to time. A first stage has no costs here.
            models: Source of each system -> its model, all in memory at the same time; None for a first stage.
            entry: The set.
        """
        timed = [system for system in systems if models[system.source] is not None]
        spent = {system.name: self._spent.setdefault(system.name, _Spent()) for system in timed}
        if timed:
            _measure_set(timed, models, entry, _draw(entry, self._queries, self._seed), self._batch_size, spent)

    def of(self, system: System) -> dict[str, float | None]:
        """``ms_per_query`` and ``bytes_per_token`` of a system.

        The former is the median over all queries of all sets, from the text of the query to the ranking. The latter is of a stored document; a bi-encoder's vector is shared out to the document's tokens; None where
        nothing is stored.
        """
        return self._spent.get(system.name, _Spent()).costs()


def describe_timing(queries: int) -> dict[str, Any]:
    """The conditions that times are taken under.

    Args:
        queries: Queries of each set.

    Returns:
        ``queries_per_set``, ``threads`` of torch, ``cores``, and ``load`` of the machine over the last minute, where it
        tells.
    """
    return {
        "queries_per_set": queries,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _draw(entry: CandidateSet, queries: int, seed: int) -> list[str]:
    """Queries to time; the first one warms up."""
    answered = sorted(query_id for query_id, items in entry.candidates.items() if items)
    drawn = random.Random(seed).sample(answered, min(queries, len(answered)))
    return [*drawn[:1], *drawn]


def _measure_set(
    systems: Sequence[System],
    models: Mapping[str, Any],
    entry: CandidateSet,
    query_ids: Sequence[str],
    batch_size: int,
    spent: Mapping[str, _Spent],
) -> None:
    """Encode the documents of the drawn queries once for each model, and let the systems take turns."""
    candidates = {query_id: entry.candidates[query_id] for query_id in query_ids}
    encoded: dict[str, Mapping[str, Any]] = {}
    for source in dict.fromkeys(system.source for system in systems):
        members = [system for system in systems if system.source == source]
        codecs = [system.codec or "fp16" for system in members]
        found = encode_candidates(models[source], entry.collection, candidates, codecs, batch_size)
        encoded |= {system.name: found[codec] for system, codec in zip(members, codecs, strict=True)}
    for system in systems:
        texts = {item: entry.collection.corpus[item] for items in candidates.values() for item in items}
        _count_bytes(system, models[system.source], encoded[system.name], texts, spent[system.name])
    for turn, query_id in enumerate(tqdm(query_ids, "Timing", unit="query", delay=2, leave=False)):
        for system in systems:
            one = {query_id: entry.candidates[query_id]}
            began = time.perf_counter()
            rank_candidates(models[system.source], entry.collection, one, encoded[system.name], batch_size, False)
            if turn:
                spent[system.name].milliseconds.append(1000 * (time.perf_counter() - began))


def _count_bytes(
    system: System, model: Any, encoded: Mapping[str, Any], texts: Mapping[str, str], spent: _Spent
) -> None:
    """Add the bytes and the tokens of some documents."""
    for item, kept in encoded.items():
        if system.kind == "mice":
            tokens, width = kept.states.shape
            spent.stored_bytes += tokens * get_codec(system.codec or "").bytes_per_token(width)
        elif isinstance(model, SentenceTransformer):
            tokens = model.preprocess([texts[item]])["input_ids"].numel()
            spent.stored_bytes += VECTOR_BYTES * kept.numel()
        else:
            tokens = kept.shape[0]
            spent.stored_bytes += VECTOR_BYTES * kept.numel()
        spent.tokens += tokens


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let torch and the tokenizers use so many threads within the block.

    The tokenizers know only one thread or as many as there are cores.
    """
    before, variable = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    torch.set_num_threads(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            os.environ.pop("TOKENIZERS_PARALLELISM")
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = variable
