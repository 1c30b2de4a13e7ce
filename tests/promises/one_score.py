"""One query against up to 40 documents, scored in every way that a model offers: all of them have to agree."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor

from mice_st import MiceCrossEncoder

TOLERANCE = 1e-5
COUNTS = (1, 2, 5, 25, 40)
# With fewer tokens than a head is wide, and with more: the fast path reads projections in different ways.
QUERIES = ("where is berlin", "how many people live in the capital of germany berlin")
QUERY = QUERIES[0]
_WORDS = [
    "the",
    "of",
    "berlin",
    "city",
    "museum",
    "population",
    "river",
    "bridge",
    "people",
    "live",
    "capital",
    "germany",
    "how",
    "many",
    "cat",
    "dog",
]


def make_documents(count: int = max(COUNTS)) -> list[str]:
    """Ragged texts; some repeat words of the query."""
    generator = random.Random(0)
    return [" ".join(generator.choices(_WORDS, k=generator.randint(1, 24))) for _ in range(count)]


def by_id(ranking: Sequence[dict[str, Any]]) -> np.ndarray:
    """Scores of ``rank`` in the documents' order."""
    scores = {hit["corpus_id"]: hit["score"] for hit in ranking}
    assert sorted(scores) == list(range(len(ranking)))
    return np.array([scores[place] for place in range(len(ranking))])


@torch.no_grad()
def padded_scores(
    model: CrossEncoder, documents: Sequence[str] | None = None, queries: Sequence[str] = QUERIES
) -> np.ndarray:
    """Of the transformers model itself, ``(queries, documents)``: the ordinary pair encoding, without any fast path."""
    network: Any = model[0].model
    tokenize: Any = model.tokenizer
    texts = make_documents() if documents is None else list(documents)
    rows = []
    for query in queries:
        encoding = tokenize([query] * len(texts), texts, padding=True, return_tensors="pt")
        rows.append(network(**encoding).logits.squeeze(-1).tolist())
    return np.array(rows)


def scores_in_every_way(model: CrossEncoder, documents: Sequence[str], query: str = QUERY) -> dict[str, np.ndarray]:
    """Way -> scores, ``(documents,)``: together, in batches, ranked, from states, and some pairs alone (NaN elsewhere)."""
    pairs = [(query, document) for document in documents]
    alone = np.full(len(pairs), np.nan)
    for place in range(min(len(pairs), 3)):
        alone[place] = float(model.predict(pairs[place]))
    scores = {
        "each pair alone": alone,
        "predict": np.asarray(model.predict(pairs), dtype=np.float64),
        "predict in batches of 3": np.asarray(model.predict(pairs, batch_size=3), dtype=np.float64),
        "rank": by_id(model.rank(query, list(documents))),
    }
    if isinstance(model, MiceCrossEncoder):
        states: Any = model.encode_documents(list(documents))
        scores["rank over states"] = by_id(model.rank(query, states))
        scores["one document's states"] = np.append(model.predict([(query, states[0])]), alone[1:])
    return scores


def assert_one_score(
    model: CrossEncoder,
    counts: Sequence[int] = COUNTS,
    expected: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """Every way gives the scores of the padded path, however many documents there are.

    Returns:
        These scores, ``(queries, documents)``; all that there are, for whichever ``counts``.
    """
    documents = make_documents()
    padded = padded_scores(model, documents)
    assert np.isfinite(padded).all()
    assert np.ptp(padded) > 0.01, "all documents score alike: agreement would say nothing"
    if expected is not None:
        np.testing.assert_allclose(padded, expected, atol=tolerance, rtol=0, err_msg="the padded path itself")
    for query, row in zip(QUERIES, padded, strict=True):
        for count in counts:
            for way, scores in scores_in_every_way(model, documents[:count], query).items():
                known = ~np.isnan(scores)
                assert known.any()
                message = f"{way}, {count} documents, {query!r}"
                np.testing.assert_allclose(scores[known], row[:count][known], atol=tolerance, rtol=0, err_msg=message)
    return padded


def fill(parameters: Iterable[Tensor], scale: float, seed: int = 0) -> None:
    """Random values in place: an adapter is born as zeros, and would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def assert_one_line(error: BaseException, *words: str) -> None:
    """An error says in one line what it is about."""
    message = str(error)
    assert all(word in message for word in words), message
    assert "\n" not in message.strip(), message
