"""MICE as this package runs it, one entry per way to keep documents. The peers are in ``peers.py``.

What is timed, for every system alike: from the query as text to the documents' numbers in order of their scores. Whatever
a system can know before the query arrives is made beforehand (states, vectors, stores); where documents come as texts,
their tokenisation is inside the time. Every system encodes its query once, except where it is the point that it does not:
a cross-encoder cannot, and the row ``as upstream`` shows what encoding it for every pair costs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.modeling.interaction_mice import score_documents
from mice_st.modeling.layers_mice import DocumentStates, EncodedTexts
from mice_st.modeling.st_mice import pad_ids
from mice_st.research.benchmark.corpus import Corpus
from mice_st.research.benchmark.flops import bytes_per_document
from mice_st.research.benchmark.models import Models, ModelSize
from mice_st.states.packed import PackedStates
from mice_st.states.sqlite_store import SqliteStore

Ranking = list[tuple[int, float]]  # number of the document and its score, best first
Ranker = Callable[[], Ranking]

BATCH = 32  # pairs in a batch, sentence-transformers' default


@dataclass(frozen=True)
class Case:
    """The input of a system.

    Attributes:
        models: The models.
        corpus: The documents.
        query: Text of the query.
        threads: Threads that a system may use.
        stack: Closes what a system opens.
        limit: Use only so many documents' texts, for a warm-up; None uses all.
    """

    models: Models
    corpus: Corpus
    query: str
    threads: int
    stack: ExitStack = field(default_factory=ExitStack)
    limit: int | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return self.corpus.texts[: self.limit]

    def head(self, count: int) -> Case:
        """The same with the first documents only."""
        return replace(self, limit=count)


class Skipped(Exception):
    """A system cannot be measured here; the message says why."""


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        name: Of the row.
        prepare: Makes everything that can be made before the query is known.
        bytes_per_token: What is kept of a token, in bytes; None where nothing is.
        slow: Whether it reads documents as texts, so that it is warmed up on a few and repeated less.
        variant: Which MICE; None for a peer that is not MICE.
        codec: Of the states that it reads.
        exact: Whether its arithmetic is that of the obvious path over the same states, rounding apart.
    """

    name: str
    prepare: Callable[[Case], Ranker]
    bytes_per_token: Callable[[ModelSize], float] | None = None
    slow: bool = False
    variant: str | None = None
    codec: str = "fp32"
    exact: bool = True


def to_ranking(scores: Tensor) -> Ranking:
    """Documents' numbers with their scores, ``(n,)``, best first; ties in the documents' order."""
    values, order = scores.sort(descending=True, stable=True)
    return list(zip(order.tolist(), values.tolist(), strict=True))


@torch.inference_mode()
def encode_query(model: MiceCrossEncoder, query: str) -> EncodedTexts:
    """Tokenise and contextualise one query."""
    return model.mice.encode_queries(*pad_ids(model.module.tokenize_side([query], "query")))


def rank_states(model: MiceCrossEncoder, query: str, documents: list[DocumentStates] | PackedStates) -> Ranking:
    """The fast path over documents' states, from the query's text to the ranking."""
    return to_ranking(score_documents(model.mice, encode_query(model, query), documents))


@torch.inference_mode()
def score_obviously(model: MiceCrossEncoder, query: str, documents: list[DocumentStates]) -> Tensor:
    """The obvious path: padded batches through ``model.score``, ``(n,)``; what every MICE system must agree with."""
    encoded = encode_query(model, query)
    scores = []
    for start in range(0, len(documents), BATCH):
        batch = EncodedTexts.pad(documents[start : start + BATCH], torch.float32, torch.device("cpu"))
        scores.append(model.mice.score(encoded.select(torch.zeros(len(batch.states), dtype=torch.long)), batch))
    return torch.cat(scores).squeeze(-1)


def _from_text(case: Case) -> Ranker:
    model = case.models.wide

    def run() -> Ranking:
        ranking = model.rank(case.query, case.texts, show_progress_bar=False)
        return [(entry["corpus_id"], entry["score"]) for entry in ranking]

    return run


def _in_memory(variant: str, codec: str) -> System:
    def prepare(case: Case) -> Ranker:
        model, packed = case.models.mice(variant), case.corpus.packed(states_of(variant), codec)
        return lambda: rank_states(model, case.query, packed)

    name = f"mice-{variant}-{codec}"
    return System(
        name, prepare, lambda size: bytes_per_document(codec, _width(variant, size), 1), False, variant, codec
    )


def _from_store(variant: str, codec: str) -> System:
    def prepare(case: Case) -> Ranker:
        model, path, ids = case.models.mice(variant), case.corpus.store(variant, codec), case.corpus.ids
        store = case.stack.enter_context(SqliteStore(path, None, read_only=True, threads=case.threads))
        return lambda: rank_states(model, case.query, store.get(ids))

    name = f"mice-{variant}-{codec}-sqlite"
    return System(
        name, prepare, lambda size: bytes_per_document(codec, _width(variant, size), 1), False, variant, codec
    )


def states_of(variant: str) -> str:
    """Whose states a variant reads: both full-width models share their contextualisation layers."""
    return "narrow" if variant == "narrow" else "wide"


def _width(variant: str, size: ModelSize) -> int:
    return size.narrow if variant == "narrow" else size.width


MICE_SYSTEMS = [
    System("mice-text", _from_text, None, slow=True, variant="wide"),
    *(_in_memory("wide", codec) for codec in ("fp32", "fp16", "int8", "int4")),
    _from_store("wide", "fp16"),
    _from_store("wide", "int8"),
    _in_memory("narrow", "fp16"),
    _in_memory("narrow", "int8"),
    _from_store("narrow", "int8"),
    _in_memory("cross_first", "fp16"),
]
