"""MiceCrossEncoder: what is computed takes as much memory for many pairs as for some, and each text is encoded as seldom as that allows."""

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mice_st.cross_encoder as cross_encoder_file
from mice_st import MiceCrossEncoder
from mice_st.cross_encoder import BLOCK_QUERIES, document_blocks, query_parts
from mice_st.states.shards import encode_shard
from tests.conftest import WORDS
from tests.text_pairs import agree


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those made while it is on; views do not count twice."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not self._alive[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._alive[key] += 1
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive[key] -= 1
        if not self._alive[key]:
            self.now -= size


def made_texts(count: int, words: int, seed: int) -> list[str]:
    """Different texts of a few words each."""
    generator = np.random.default_rng(seed)
    known = WORDS.split()
    return [f"{number} " + " ".join(generator.choice(known, words)) for number in range(count)]


def peak_of(mice: MiceCrossEncoder, pairs: list[tuple[str, Any]]) -> int:
    with PeakBytes() as peak:
        mice.predict(pairs, show_progress_bar=False)
    return peak.peak


def test_the_measure_sees_what_is_alive() -> None:
    with PeakBytes() as peak:
        kept = torch.zeros(1000)
        for _ in range(5):
            torch.zeros(500)
        kept.view(10, 100)
    assert peak.peak == 4 * 1500


def test_different_queries_and_documents_take_no_more_memory_the_more_there_are(mice: MiceCrossEncoder) -> None:
    queries, documents = made_texts(4000, 8, 1), made_texts(4000, 5, 2)
    pairs: list[tuple[str, Any]] = list(zip(queries, documents, strict=True))
    mice.predict(pairs[:8])
    some, many = peak_of(mice, pairs[:500]), peak_of(mice, pairs)
    assert many < 1.2 * some


def test_many_queries_of_one_document_take_no_more_memory(mice: MiceCrossEncoder) -> None:
    pairs: list[tuple[str, Any]] = [(query, "the capital of germany") for query in made_texts(3000, 8, 1)]
    some, many = peak_of(mice, pairs[:500]), peak_of(mice, pairs)
    assert many < 1.2 * some


def test_a_long_text_in_passages_takes_its_states_and_one_block(mice: MiceCrossEncoder) -> None:
    long = " ".join(made_texts(1, 40_000, 3))
    assert len(long) > 200_000
    with PeakBytes() as peak:
        (encoded,) = mice.encode_documents([long], passages=True)
    states = encoded.states.nbytes + encoded.input_ids.nbytes
    assert peak.peak < 3 * states  # its passages, and these joined
    with PeakBytes() as peak:
        encode_shard(mice.module, [long], ["long"], 8)
    assert peak.peak < 2 * states  # its arrays are numpy's
    short = " ".join(long.split()[:8000])
    with PeakBytes() as peak:
        mice.rank("where is berlin", [short, "a dog"], passages=True)
    part = peak.peak
    with PeakBytes() as peak:
        mice.rank("where is berlin", [long, "a dog"], passages=True)
    assert peak.peak < 1.5 * part  # not five times as much


def test_blocks_hold_each_request_once_and_few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_encoder_file, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(cross_encoder_file, "BLOCK_TOKENS", 50)
    generator = np.random.default_rng(5)
    for density in (0.05, 0.3, 1.0):
        asks = generator.random((30, 20)) < density  # documents, queries
        requests = [
            [(int(query), document * 20 + int(query)) for query in row.nonzero()[0]]
            for document, row in enumerate(asks)
        ]
        blocks = list(document_blocks(list(range(30)), [10.0] * 30, [{query for query, _ in row} for row in requests]))
        assert [place for block in blocks for place in block] == list(range(30))
        assert max(map(len, blocks)) <= 5
        rows = []
        for block in blocks:
            for part in query_parts(block, requests):
                assert len({query for asking in part.values() for query, _ in asking}) <= 4
                assert all(part.values())
                rows += [row for asking in part.values() for _, row in asking]
        assert sorted(rows) == sorted(row for asking in requests for _, row in asking)
    # Documents that all queries ask for are scored together, each once for each four queries.
    assert [len(block) for block in blocks] == [5] * 6


def test_a_document_is_encoded_once_for_each_block_of_its_queries(
    mice: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = mice.mice.encode_documents

    def spy(input_ids: torch.Tensor, *args: Any) -> Any:
        encoded.append(len(input_ids))
        return encode(input_ids, *args)

    monkeypatch.setattr(mice.mice, "encode_documents", spy)
    documents = made_texts(10, 5, 2)
    pairs = [(query, document) for query in made_texts(BLOCK_QUERIES + 1, 6, 1) for document in documents]
    scores = mice.predict(pairs)
    assert sum(encoded) == 2 * len(documents)
    encoded.clear()
    agree(scores[: 10 * BLOCK_QUERIES], mice.predict(pairs[: 10 * BLOCK_QUERIES]))
    assert sum(encoded) == len(documents)
    agree(scores[-10:], mice.predict(pairs[-10:]))
