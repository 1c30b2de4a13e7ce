"""One model object in several threads, and several models that load at once."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from tests.promises.one_score import QUERIES, TOLERANCE, by_id, make_documents

Load = Callable[..., CrossEncoder]
LONG = "the city of berlin and a river "


def test_four_threads_give_the_scores_of_one(load_either: Load) -> None:
    model: Any = load_either()
    documents = make_documents(30)
    subsets = [random.Random(seed).sample(range(30), 3 + seed % 14) for seed in range(200)]
    expected = np.array([model.predict([(query, document) for document in documents]) for query in QUERIES])
    kinds = ["predict", "rank", "alone"] + (["states", "rank states"] if isinstance(model, MiceCrossEncoder) else [])

    def work(call: int) -> np.ndarray:
        kind, places, query = kinds[call % len(kinds)], subsets[call], QUERIES[call % 2]
        texts = [documents[place] for place in places]
        if kind == "predict":
            return model.predict([(query, text) for text in texts])
        if kind == "rank":
            return by_id(model.rank(query, texts))
        if kind == "alone":
            return np.array([model.predict((query, text)) for text in texts[:3]])
        states = model.encode_documents(texts)
        if kind == "states":
            return model.predict([(query, state) for state in states])
        return by_id(model.rank(query, states))

    with ThreadPoolExecutor(4) as pool:
        for call, scores in enumerate(pool.map(work, range(200))):
            right = expected[call % 2, subsets[call]][: len(scores)]
            np.testing.assert_allclose(scores, right, atol=TOLERANCE, rtol=0, err_msg=f"call {call}")


def test_another_threads_truncation_cuts_no_document(load_either: Load) -> None:
    """A fast tokenizer keeps its truncation and padding as state; a caller's must not become ours."""
    model: Any = load_either()
    documents = [LONG * 3 + f"number {place}" for place in range(24)]
    expected = model.predict([(QUERIES[0], document) for document in documents])
    short = model.predict([(QUERIES[0], " ".join(document.split()[:6])) for document in documents])
    assert np.abs(expected - short).max() > 1e-3
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            model.tokenizer("a text " * 20, truncation=True, max_length=8)
            model.tokenizer(["a dog", "the city of berlin"], padding="max_length", max_length=40)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(60):
            found = model.predict([(QUERIES[0], document) for document in documents])
            np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    finally:
        stop.set()
        thread.join()


def test_a_truncation_left_in_the_tokenizer_is_the_users(load_either: Load) -> None:
    model: Any = load_either()
    pair = (QUERIES[0], LONG * 3)
    expected = float(model.predict(pair))
    model.tokenizer.backend_tokenizer.enable_truncation(6)
    assert float(model.predict(pair)) == pytest.approx(expected, abs=TOLERANCE)


def test_a_token_added_to_the_tokenizer_is_seen(load: Load) -> None:
    """A copy of the tokenizer must not be a stale one."""
    model: Any = load()
    before = model.tokenizer("berlinpizza")["input_ids"]
    model.tokenizer.add_tokens(["berlinpizza"])
    model.mice.resize_token_embeddings(len(model.tokenizer))
    after = model.tokenizer("berlinpizza")["input_ids"]
    assert after != before
    assert model.encode_documents(["berlinpizza"])[0].input_ids.tolist() == after


def test_models_that_load_at_once_have_their_own_dtype(mice_folder: Path, tmp_path: Path) -> None:
    """transformers sets the process's default dtype while it loads."""
    half = tmp_path / "half"
    shutil.copytree(mice_folder, half)
    model: Any = MiceCrossEncoder(str(mice_folder), device="cpu")
    model.mice.to(torch.bfloat16)
    model.save(str(half))
    start = threading.Barrier(4)

    def load(folder: Path) -> list[tuple[str, set[torch.dtype], Any]]:
        start.wait()
        made = []
        for _ in range(5):
            network = MiceCrossEncoder(str(folder), device="cpu").mice
            made.append((folder.name, {value.dtype for value in network.parameters()}, network.config.dtype))
        return made

    with ThreadPoolExecutor(4) as pool:
        loaded = [made for rows in pool.map(load, [mice_folder, half, mice_folder, half]) for made in rows]
    assert torch.get_default_dtype() is torch.float32
    for name, dtypes, configured in loaded:
        expected = torch.bfloat16 if name == "half" else torch.float32
        assert dtypes == {expected}
        assert configured in (expected, str(expected).removeprefix("torch."))


def test_two_threads_load_the_published_code_at_once(fork_python: Callable[..., str], mice_folder: Path) -> None:
    """As a server does that warms two workers: dynamic modules are written once and read whole."""
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from sentence_transformers import CrossEncoder
start = threading.Barrier(2)
def load(_):
    start.wait()
    model = CrossEncoder(sys.argv[1], trust_remote_code=True, device="cpu")
    return round(float(model.predict(("where is berlin", "a dog"))), 4), str(next(model.parameters()).dtype)
with ThreadPoolExecutor(2) as pool:
    found = set(pool.map(load, range(2)))
assert len(found) == 1, found
print(found)
"""
    assert "torch.float32" in fork_python(code, mice_folder, without_mice_st=True)
