"""Pairs, documents and comparisons that the tests of ``MiceCrossEncoder`` share."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAIRS = [
    ("where is berlin", "the capital of germany"),
    ("where is berlin", "a river and a bridge in the city, open to people"),
    ("how many people live in berlin", "the population of berlin was 3,520,031"),
    ("where is berlin", "a dog"),
    ("how many people live in berlin", "a dog"),
    ("where [SEP] is", "a dog [SEP] and a cat"),
    ("", "a bird"),
    ("where is berlin", ""),
    ("where is berlin", "a dog"),
    ("sort a list of number " * 6, "write and read a file " * 20),
]
QUERY = "where is berlin"
DOCUMENTS = [
    "a dog",
    "the capital of germany",
    "",
    "the city of berlin is open to people",
    "write a file " * 20,
    "a cat",
]


def agree(scores: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(scores), np.asarray(expected), atol=tolerance, rtol=0)


def cut_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Cut ")]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def rank_alike(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]], tolerance: float = 1e-6) -> None:
    """Two rankings of one set of documents: equal scores by id, each sorted by its own.

    Then both have one order wherever scores lie further apart than rounding moves them, which is all that two ways of computing
    them can promise. Of cut rankings, the last places may hold different documents of nearly one score.
    """
    for ranking in (found, expected):
        scores = [hit["score"] for hit in ranking]
        assert scores == sorted(scores, reverse=True)
    agree([hit["score"] for hit in found], [hit["score"] for hit in expected], tolerance)
    right = {hit["corpus_id"]: hit["score"] for hit in expected}
    lowest = min(right.values(), default=0.0)
    for hit in found:
        assert abs(hit["score"] - right.get(hit["corpus_id"], lowest)) <= tolerance, hit


def is_order_of(order: Sequence[int], scores: Sequence[float], tolerance: float = 1e-5) -> bool:
    """Whether this order of places is one that falling ``scores`` allow, when they may be off by ``tolerance``."""
    ranked = [scores[place] for place in order]
    lowest = itertools.accumulate(ranked, min)
    falls = all(score <= before + 2 * tolerance for before, score in zip(lowest, ranked[1:], strict=False))
    return falls and sorted(order) == list(range(len(scores)))
