"""MiceCrossEncoder: documents that are encoded once, in one process and in several; texts that are cut."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import DocumentStates, MiceCrossEncoder
from tests.text_pairs import DOCUMENTS, PAIRS, QUERY, agree, cut_warnings, rank_alike


def test_encoded_documents_come_in_input_order(mice: MiceCrossEncoder) -> None:
    documents = [*DOCUMENTS, DOCUMENTS[1]]
    encoded = mice.encode_documents(documents)
    assert [type(document) for document in encoded] == [DocumentStates] * len(documents)
    for text, document in zip(documents, encoded, strict=True):
        ids = mice.tokenizer(text, split_special_tokens=True)["input_ids"]
        ids = ids if len(ids) <= 32 else [*ids[:31], 3]
        assert document.input_ids.tolist() == ids
        row = torch.tensor([ids])
        with torch.no_grad():
            alone = mice.mice.encode_documents(row, torch.ones_like(row)).states[0]
        assert document.states.shape == (len(ids), 32)
        assert document.states.dtype == torch.float32
        torch.testing.assert_close(document.states, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_the_size_of_a_batch_does_not_move_states(mice: MiceCrossEncoder, batch_tokens: int) -> None:
    for document, expected in zip(
        mice.encode_documents(DOCUMENTS, batch_tokens=batch_tokens), mice.encode_documents(DOCUMENTS), strict=True
    ):
        torch.testing.assert_close(document.states, expected.states, atol=5e-6, rtol=0)
        assert torch.equal(document.input_ids, expected.input_ids)


def test_encoded_documents_own_their_memory(mice: MiceCrossEncoder) -> None:
    """A view would keep the whole padded batch alive for as long as one document is kept."""
    for document in mice.encode_documents(DOCUMENTS):
        assert document.states.untyped_storage().nbytes() == document.states.numel() * 4
        assert not document.states.requires_grad


def test_no_documents_encode_to_nothing(mice: MiceCrossEncoder) -> None:
    assert mice.encode_documents([]) == []


@pytest.mark.parametrize("ours", [True, False])
def test_states_score_as_their_texts(mice: MiceCrossEncoder, stock: CrossEncoder, ours: bool) -> None:
    model = mice if ours else stock
    expected = mice.predict(PAIRS)
    states = mice.encode_documents([document for _, document in PAIRS])
    stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
    mixed = [pair if place % 2 else other for place, (pair, other) in enumerate(zip(PAIRS, stored, strict=True))]
    for inputs in (stored, mixed):
        agree(model.predict(inputs, batch_size=3), expected)
        agree(model.predict(inputs[2]), expected[2])
    half = DocumentStates(states[0].states.half(), states[0].input_ids)
    agree(model.predict([(PAIRS[0][0], half), *stored[1:3]]), expected[:3], tolerance=5e-3)


def test_rank_over_states(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    expected = mice.rank(QUERY, DOCUMENTS)
    states = mice.encode_documents(DOCUMENTS)
    mixed = [
        text if place % 2 else document for place, (text, document) in enumerate(zip(DOCUMENTS, states, strict=True))
    ]
    for documents in (states, mixed, tuple(states)):
        for model in (mice, stock):
            ranking = model.rank(QUERY, documents, return_documents=True)
            rank_alike(ranking, expected)
            assert all(hit["text"] is documents[hit["corpus_id"]] for hit in ranking)


def test_states_are_read_and_left_as_they_are(mice: MiceCrossEncoder) -> None:
    states = mice.encode_documents(DOCUMENTS)
    before = [document.states.clone() for document in states]
    mice.rank(QUERY, states)
    assert all(torch.equal(document.states, copy) for document, copy in zip(states, before, strict=True))


# --- cut texts ---


def test_cut_documents_are_counted_in_one_warning(mice: MiceCrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    long = "berlin " * 31
    mice.encode_documents(["a dog", long, "a cat " + long, long + "end"], batch_tokens=40)
    assert len(cut_warnings(caplog)) == 1
    assert "0 queries at 16 tokens and 3 documents at 32 tokens" in cut_warnings(caplog)[0]
    caplog.clear()
    mice.predict([(f"{'who ' * 20}{place}", f"{long} {place % 2}") for place in range(8)], batch_size=2)
    assert len(cut_warnings(caplog)) == 1
    assert "8 queries at 16 tokens and 2 documents at 32 tokens" in cut_warnings(caplog)[0]
    caplog.clear()
    mice.rank(QUERY, [long, "a dog"])
    assert "0 queries at 16 tokens and 1 documents at 32 tokens" in "".join(cut_warnings(caplog))
    caplog.clear()
    mice.rank(QUERY, ["berlin " * 30, "a dog"])  # fits
    mice.encode_documents(["a dog"])
    assert cut_warnings(caplog) == []


def test_a_cut_text_scores_as_what_is_left_of_it(mice: MiceCrossEncoder) -> None:
    agree(mice.predict(("who " * 50, "berlin " * 50)), mice.predict(("who " * 14, "berlin " * 30)))
    assert abs(mice.predict(("who", "berlin " * 29)) - mice.predict(("who", "berlin " * 30))) > 1e-4


def test_max_length_is_that_of_documents(mice: MiceCrossEncoder, mice_folder: Path, tmp_path: Path) -> None:
    text = "the city of berlin " * 10
    expected = mice.predict((QUERY, " ".join(text.split()[:8])))
    ours = MiceCrossEncoder(str(mice_folder), max_length=10, device="cpu")
    theirs = CrossEncoder(str(mice_folder), max_length=10, trust_remote_code=True, device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 10
    agree(ours.predict((QUERY, text)), expected)
    agree(theirs.predict((QUERY, text)), expected)
    ours.save(str(tmp_path))
    agree(MiceCrossEncoder(str(tmp_path), device="cpu").predict((QUERY, text)), expected)


# --- several processes ---


@pytest.mark.slow
def test_worker_processes_give_the_same_scores(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    expected = mice.predict(PAIRS)
    pool = mice.start_multi_process_pool(["cpu", "cpu"])
    try:
        agree(mice.predict(PAIRS, pool=pool, chunk_size=3), expected)
        states = mice.encode_documents([document for _, document in PAIRS])
        stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
        agree(mice.predict(stored, pool=pool, chunk_size=4), expected)
        ranking = mice.rank(QUERY, DOCUMENTS, pool=pool)
        rank_alike(ranking, mice.rank(QUERY, DOCUMENTS))
        with pytest.raises(ValueError, match="pair 1: the document is of type NoneType"):
            mice.predict([("who", "a dog"), ("who", None)], pool=pool)
        agree(mice.predict(PAIRS[0], pool=pool), expected[0])
    finally:
        mice.stop_multi_process_pool(pool)


@pytest.mark.slow
def test_a_list_of_devices_gives_the_same_scores(mice: MiceCrossEncoder) -> None:
    agree(mice.predict(PAIRS, device=["cpu", "cpu"]), mice.predict(PAIRS))
