"""Re-ranking a first stage's candidates: an evaluator for sentence-transformers' trainers, and a function of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from tqdm.auto import tqdm

from mice_st.collection import Collection
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.metrics import RunMetrics, evaluate_run
from mice_st.evaluation.vectors import DOCUMENTS_AT_ONCE, rerank_with_vectors
from mice_st.first_stage import Run
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.memory import MemoryStates
from mice_st.states.store import Fingerprint

# Queries scored together: equal lengths find each other, and the memory stays bounded.
QUERIES_AT_ONCE = 16

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
        keep_states: Keep the documents' states for the next call. They serve as long as nothing that documents pass through has changed;
            in fp16 each holds ``2 * tokens * hidden`` bytes.
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
        self._states = MemoryStates(codec)
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
        if not isinstance(model, CrossEncoder):
            return rerank_with_vectors(model, self.batch_size, self.collection, self.candidates)
        states = self._encode(model) if isinstance(model, MiceCrossEncoder) else MemoryStates(self.codec)
        run: Run = {}
        query_ids = list(self.candidates)
        progress = self._progress(len(query_ids), "Re-ranking", "query")
        with progress:
            for start in range(0, len(query_ids), QUERIES_AT_ONCE):
                chunk = query_ids[start : start + QUERIES_AT_ONCE]
                pairs: list[Any] = [
                    (self.collection.queries[query_id], states.get(item) or self.collection.corpus[item])
                    for query_id in chunk
                    for item in self.candidates[query_id]
                ]
                scores = model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False) if pairs else []
                remaining = iter(scores)
                for query_id in chunk:
                    scored = {item: float(next(remaining)) for item in self.candidates[query_id]}
                    run[query_id] = dict(sorted(scored.items(), key=lambda item: -item[1]))
                progress.update(len(chunk))
        return run

    def _encode(self, model: MiceCrossEncoder) -> MemoryStates:
        """Document id -> states, on the CPU."""
        wanted = {item for documents in self.candidates.values() for item in documents}
        made_by = fingerprint_of(model, self.codec) if self.keep_states else None
        if made_by is not None and made_by == self._made_by and wanted == self._states.keys():
            return self._states
        order = sorted(wanted, key=lambda item: (len(self.collection.corpus[item]), item))
        states = MemoryStates(self.codec)
        with self._progress(len(order), "Encoding documents", "document") as progress:
            for start in range(0, len(order), DOCUMENTS_AT_ONCE):
                chunk = order[start : start + DOCUMENTS_AT_ONCE]
                texts = [self.collection.corpus[item] for item in chunk]
                for item, document in zip(chunk, model.encode_documents(texts, show_progress_bar=False), strict=True):
                    states.put(item, document)
                progress.update(len(chunk))
        if self.keep_states:
            self._states, self._made_by = states, made_by
        return states

    def _progress(self, total: int, description: str, unit: str) -> tqdm:
        return tqdm(
            total=total,
            desc=description,
            unit=unit,
            leave=False,
            delay=0 if self.show_progress_bar else 2,
            disable=self.show_progress_bar is False,
        )
