"""The default dtype of a user's process is the user's: it changes no score and no dtype of a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mice_st import MiceCrossEncoder
from tests.promises.one_score import QUERY, TOLERANCE, make_documents

# Loads under one default, then scores under each of several; prints dtype and scores of each way.
DRIVER = """
import json, sys
import torch
folder, at_load, ours, (query, documents) = sys.argv[1], sys.argv[2], sys.argv[3] == "installed", json.loads(sys.argv[4])
torch.set_default_dtype(getattr(torch, at_load))
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer
models = {"CrossEncoder": CrossEncoder(folder, trust_remote_code=True, device="cpu")}
if ours:
    from mice_st import MiceCrossEncoder
    models["MiceCrossEncoder"] = MiceCrossEncoder(folder, device="cpu")
network = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
found = {"weights": [str(next(network.parameters()).dtype), []]}
pairs = [(query, document) for document in documents]

def keep(way, scores):
    found[f"{way}, {torch.get_default_dtype()}"] = [str(scores.dtype), scores.tolist()]

for dtype in (at_load, "bfloat16", "float64", "float16", "float32"):
    torch.set_default_dtype(getattr(torch, dtype))
    for name, model in models.items():
        keep(name + " alone", model.predict(pairs[0], convert_to_tensor=True).view(1))
        keep(name + " predict", model.predict(pairs, convert_to_tensor=True))
        keep(name + " numpy", torch.from_numpy(model.predict(pairs)))
        keep(name + " few", model.predict(pairs[:2], convert_to_tensor=True))
        ranking = sorted(model.rank(query, documents), key=lambda hit: hit["corpus_id"])
        keep(name + " rank", torch.tensor([hit["score"] for hit in ranking], dtype=torch.float32))
        if name == "MiceCrossEncoder":
            states = model.encode_documents(documents)
            keep("states", torch.empty(0, dtype=states[0].states.dtype))
            keep("over states", model.predict([(query, document) for document in states], convert_to_tensor=True))
    with torch.no_grad():
        batch = tokenizer([query] * len(documents), documents, padding=True, return_tensors="pt")
        keep("transformers", network(**batch).logits.squeeze(-1))
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("folder", "code", "at_load"),
    [
        ("mice_folder", "published", "bfloat16"),
        pytest.param("mice_folder", "installed", "float64", marks=pytest.mark.slow),
        pytest.param("max_sim_folder", "published", "float64", marks=pytest.mark.slow),
        pytest.param("max_sim_folder", "installed", "bfloat16", marks=pytest.mark.slow),
        pytest.param("modernbert_folder", "published", "float32", marks=pytest.mark.slow),
    ],
)
def test_in_a_process_with_another_default(
    request: pytest.FixtureRequest, run_python: Callable[..., str], folder: str, code: str, at_load: str
) -> None:
    path = request.getfixturevalue(folder)
    documents = make_documents(9)
    expected = MiceCrossEncoder(str(path), device="cpu").predict([(QUERY, document) for document in documents])
    arguments = (path, at_load, code, json.dumps([QUERY, documents]))
    printed = run_python(DRIVER, *arguments, without_mice_st=code == "published")
    for way, (found_dtype, scores) in json.loads(printed.splitlines()[-1]).items():
        assert found_dtype == "torch.float32", way
        np.testing.assert_allclose(scores, expected[: len(scores)], atol=TOLERANCE, rtol=0, err_msg=way)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_this_process(mice: MiceCrossEncoder, dtype: torch.dtype, base_scores: np.ndarray) -> None:
    pairs = [(QUERY, document) for document in make_documents()]
    torch.set_default_dtype(dtype)
    try:
        scores, one = mice.predict(pairs), mice.predict(pairs[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert scores.dtype == one.dtype == np.float32
    np.testing.assert_allclose(scores, base_scores[0], atol=TOLERANCE, rtol=0)


def test_loading_leaves_the_default_as_it_was(mice_folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        MiceCrossEncoder(str(mice_folder), device="cpu")
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
