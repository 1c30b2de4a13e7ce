"""Re-ranking a first stage's candidates: functions, and an evaluator for sentence-transformers' trainers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.data.runs import Run, check_finite
from mice_st.evaluation.blocks import DOCUMENTS_AT_ONCE, QUERIES_AT_ONCE, progress_bar, rank_in_blocks
from mice_st.evaluation.metrics import RunMetrics, evaluate_run
from mice_st.evaluation.vectors import encode_vectors, rank_by_vectors
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.identity import Fingerprint
from mice_st.states.memory import MemoryStates

Reranker: TypeAlias = CrossEncoder | SentenceTransformer | MultiVectorEncoder


class RerankingEvaluator(BaseEvaluator):
    """Measures how a model orders candidates that a first stage found.

    MICE scores from document states, each document encoded once, as they would be stored; any other ``CrossEncoder``
    scores the pairs; bi-encoders and ColBERT compare vectors, each document encoded once.

    Args:
        collection: Texts and judgements; all its judged queries count, those without candidates with 0.
        candidates: Query id -> document ids, or a run. Queries that are not in the collection are refused.
        name: Name of the collection in the figures: ``"<name>_ndcg@10"`` and ``"<name>_mrr@10"``.
        batch_size: Pairs scored at a time.
        codec: How MICE's states are kept: ``"fp16"``, ``"int8"``, ``"int4"`` or ``"fp32"``.
        keep_states: Keep the documents' states for the next call. They serve as long as nothing that documents pass
            through has changed; in fp16 each holds ``2 * tokens * hidden`` bytes.
        show_progress_bar: None shows one where the work takes over two seconds.

    Raises:
        ValueError: If a candidate is not in the collection; names query and document.
    """

    def __init__(
        self,
        collection: Collection,
        candidates: Mapping[str, Iterable[str]],
        name: str = "dev",
        batch_size: int = 64,
        keep_states: bool = False,
        codec: str = "fp16",
        show_progress_bar: bool | None = None,
    ) -> None:
        super().__init__()
        self.collection = collection
        self.candidates = {query_id: list(documents) for query_id, documents in candidates.items()}
        for query_id, documents in self.candidates.items():
            if query_id not in collection.queries:
                raise ValueError(f"candidates: query {query_id!r} is not in {collection.name}")
            for document_id in documents:
                if document_id not in collection.corpus:
                    raise ValueError(f"candidates: query {query_id!r}: document {document_id!r} is not in the corpus")
        self.name = name
        self.batch_size = batch_size
        self.keep_states = keep_states
        self.codec = codec
        self.show_progress_bar = show_progress_bar
        self.primary_metric = f"{name}_ndcg@10"
        self._states: Mapping[str, Any] = {}
        self._made_by: Fingerprint | None = None

    def __call__(
        self, model: Reranker, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """The figures of the model, as sentence-transformers' trainers ask for them.

        Args:
            model: The model.
            output_path: Unused: the trainer's log holds the figures.
            epoch: Where the training stands, for the model card.
            steps: Where the training stands, for the model card.

        Returns:
            ``{"<name>_ndcg@10": ..., "<name>_mrr@10": ...}``.
        """
        figures = self.measure(model)[0]
        metrics = {f"{self.name}_ndcg@10": figures.ndcg_at_10, f"{self.name}_mrr@10": figures.mrr_at_10}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]
        return metrics

    def measure(self, model: Reranker) -> tuple[RunMetrics, Run]:
        """Re-rank and measure.

        Returns:
            The figures, and the run that they were measured on.
        """
        run = self.rerank(model)
        return evaluate_run(self.collection.qrels, run), run

    def rerank(self, model: Reranker) -> Run:
        """Score every candidate.

        Returns:
            Query id -> document id -> score, best first.
        """
        shared = (self.collection, self.candidates)
        return rank_candidates(model, *shared, self._encode(model), self.batch_size, self.show_progress_bar)

    def _encode(self, model: Reranker) -> Mapping[str, Any]:
        """Document id -> what stands for it; kept for the next call where that is wanted."""
        if not (self.keep_states and isinstance(model, MiceCrossEncoder)):
            return self._encode_anew(model)
        wanted = {item for documents in self.candidates.values() for item in documents}
        made_by = fingerprint_of(model, self.codec)
        if made_by != self._made_by or wanted != self._states.keys():
            self._states, self._made_by = self._encode_anew(model), made_by
        return self._states

    def _encode_anew(self, model: Reranker) -> Mapping[str, Any]:
        shared = (self.collection, self.candidates)
        return encode_candidates(model, *shared, [self.codec], self.batch_size, self.show_progress_bar)[self.codec]


def rerank(
    model: Reranker,
    collection: Collection,
    candidates: Mapping[str, Iterable[str]],
    codecs: Sequence[str],
    batch_size: int = 64,
) -> dict[str, Run]:
    """Score candidates with a model of any kind, each document encoded once where the model can.

    Args:
        model: The model.
        collection: Texts.
        candidates: Query id -> document ids, or a run.
        codecs: How MICE's states are kept; other models have the same scores under each.
        batch_size: Pairs scored, or texts encoded, at a time.

    Returns:
        Codec -> query id -> document id -> score, best first.
    """
    if isinstance(model, MiceCrossEncoder):
        return rank_in_blocks(model, collection.queries, collection.corpus, candidates, codecs, batch_size)
    encoded = encode_candidates(model, collection, candidates, codecs[:1], batch_size)[codecs[0]]
    return dict.fromkeys(codecs, rank_candidates(model, collection, candidates, encoded, batch_size))


def encode_candidates(
    model: Reranker,
    collection: Collection,
    candidates: Mapping[str, Iterable[str]],
    codecs: Sequence[str],
    batch_size: int = 64,
    show_progress_bar: bool | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Encode each candidate once, as far as the model can without a query.

    Args:
        model: The model.
        collection: Texts.
        candidates: Query id -> document ids, or a run.
        codecs: How MICE's states are kept; all of them are made of one encoding.
        batch_size: Texts encoded at a time by bi-encoders and ColBERT.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        Codec -> document id -> states on the CPU, or vectors, which are the same under every codec; nothing for a plain
        cross-encoder.
    """
    if not isinstance(model, CrossEncoder):
        return dict.fromkeys(codecs, encode_vectors(model, batch_size, collection, candidates))
    encoded = {codec: MemoryStates(codec) for codec in codecs}
    if not isinstance(model, MiceCrossEncoder):
        return dict(encoded)
    wanted = {item for documents in candidates.values() for item in documents}
    order = sorted(wanted, key=lambda item: (len(collection.corpus[item]), item))
    with progress_bar(len(order), "Encoding documents", "document", show_progress_bar) as progress:
        for start in range(0, len(order), DOCUMENTS_AT_ONCE):
            chunk = order[start : start + DOCUMENTS_AT_ONCE]
            texts = [collection.corpus[item] for item in chunk]
            for item, document in zip(chunk, model.encode_documents(texts, show_progress_bar=False), strict=True):
                for states in encoded.values():
                    states.put(item, document)
            progress.update(len(chunk))
    return dict(encoded)


def rank_candidates(
    model: Reranker,
    collection: Collection,
    candidates: Mapping[str, Iterable[str]],
    encoded: Mapping[str, Any],
    batch_size: int = 64,
    show_progress_bar: bool | None = None,
) -> Run:
    """Score candidates, from what ``encode_candidates`` has made of them.

    Args:
        model: The model.
        collection: Texts.
        candidates: Query id -> document ids, or a run.
        encoded: Document id -> its states or vectors.
        batch_size: Pairs scored, or queries encoded, at a time.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        Query id -> document id -> score, best first.

    Raises:
        ValueError: If a score is not finite; names query and document.
    """
    if not isinstance(model, CrossEncoder):
        return rank_by_vectors(model, batch_size, collection, candidates, encoded)  # which checks too
    run: Run = {}
    query_ids = list(candidates)
    with progress_bar(len(query_ids), "Re-ranking", "query", show_progress_bar) as progress:
        for start in range(0, len(query_ids), QUERIES_AT_ONCE):
            chunk = query_ids[start : start + QUERIES_AT_ONCE]
            pairs: list[Any] = [
                (collection.queries[query_id], encoded.get(item) or collection.corpus[item])
                for query_id in chunk
                for item in candidates[query_id]
            ]
            scores = model.predict(pairs, batch_size=batch_size, show_progress_bar=False) if pairs else []
            remaining = iter(scores)
            for query_id in chunk:
                scored = {item: float(next(remaining)) for item in candidates[query_id]}
                check_finite(query_id, scored)
                run[query_id] = dict(sorted(scored.items(), key=lambda item: -item[1]))
            progress.update(len(chunk))
    return run
