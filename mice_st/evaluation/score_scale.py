"""The scale of a re-ranker's scores: small enough that a sigmoid tells them apart.

Rankers of other libraries and servers put a sigmoid on a cross-encoder's logits, which in float32 reaches exactly 1.0 at
16.7: documents above that tie, and come out in the order they went in. A scale changes no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from transformers.utils import logging

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.evaluation.suites import draw_queries

logger = logging.get_logger(__name__)

LARGEST_LOGIT = 8.0  # sigmoid(8) is 3,000 steps of float32 below 1
QUERIES = 16
DOCUMENTS = 8  # of each query


def lower_score_scale(model: MiceCrossEncoder, scores: Iterable[float]) -> float:
    """Lower ``config.score_scale`` until these scores of the model lie within [-8, 8]; it is never raised.

    Args:
        model: The re-ranker; its config is changed.
        scores: Scores that it gave as it is; those of documents without a word do not count.

    Returns:
        The scale.

    Raises:
        ValueError: If there is no score.
    """
    config = model.mice.config
    sizes = [abs(score) for score in scores if score != config.empty_document_score]
    if not sizes:
        raise ValueError("score_scale: there is no score to measure.")
    if max(sizes) > LARGEST_LOGIT:
        config.score_scale *= LARGEST_LOGIT / max(sizes)
        logger.info(f"score_scale: {config.score_scale:.4g}, because logits reached {max(sizes):.1f}")
    return config.score_scale


def score_lists(model: MiceCrossEncoder, lists: Iterable[tuple[str, Sequence[str]]]) -> list[float]:
    """The model's scores of some queries, each with some documents."""
    pairs = [(query, text) for query, texts in lists for text in texts[:DOCUMENTS]]
    return model.predict(pairs, activation_fn=lambda logits: logits).tolist() if pairs else []


def judged_lists(collection: Collection) -> Iterator[tuple[str, list[str]]]:
    """Some queries of a collection, each with documents that are judged and, to fill up, others."""
    corpus = collection.corpus
    others = list(corpus.values())
    for place, (query, judged) in enumerate(draw_queries(collection, QUERIES, seed=0).qrels.items()):
        texts = [corpus[document] for document in judged if document in corpus][: DOCUMENTS // 2]
        start = place * DOCUMENTS % len(others)
        yield collection.queries[query], [*texts, *others[start : start + DOCUMENTS]]
