"""Pairs, documents and comparisons that the tests of ``MiceCrossEncoder`` share."""

import json
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
