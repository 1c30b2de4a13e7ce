"""MiceCrossEncoder: the contract of CrossEncoder."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from mice_st import MiceCrossEncoder
from tests.text_pairs import DOCUMENTS, PAIRS, QUERY, agree, rank_alike, read


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_arguments_are_those_of_sentence_transformers(method: str) -> None:
    """What MICE adds can only be given by name, and can be left out."""
    ours, theirs = (inspect.signature(getattr(cls, method)).parameters for cls in (MiceCrossEncoder, CrossEncoder))
    added = [parameter for name, parameter in ours.items() if name not in theirs]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in added)
    assert [name for name in ours if name in theirs] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind
        assert parameter.default in (parameter.empty, ours[name].default), name  # what they demand may be left out


CALLS: list[dict[str, Any]] = [
    {},
    {"batch_size": 1},
    {"batch_size": 3},
    {"batch_size": 64},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": False, "convert_to_tensor": True},
    {"activation_fn": nn.Sigmoid()},
    {"activation_fn": nn.Sigmoid(), "convert_to_tensor": True},
    {"apply_softmax": True},
    {"prompt": "find: "},
    {"device": "cpu"},
    {"show_progress_bar": False},
    {"activation_fct": nn.Sigmoid(), "num_workers": 0},  # earlier names
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_predict_is_what_stock_cross_encoder_returns(
    mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]
) -> None:
    for inputs in (PAIRS, tuple(PAIRS), [list(pair) for pair in PAIRS], np.array(PAIRS, dtype=object), PAIRS[:1]):
        ours, theirs = mice.predict(inputs, **call), stock.predict(inputs, **call)
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs) == len(inputs)
        agree(ours, theirs)
        if isinstance(ours, list):
            assert {(type(score), score.dtype, score.shape) for score in ours} == {(torch.Tensor, torch.float32, ())}
        else:
            assert ours.dtype == theirs.dtype
            assert ours.dtype in (np.float32, torch.float32)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_one_pair_gives_one_score(mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]) -> None:
    for pair in (PAIRS[0], list(PAIRS[0]), np.array(PAIRS[0])):
        ours, theirs = mice.predict(pair, **call), stock.predict(pair, **call)
        assert type(ours) is type(theirs)
        assert ours.shape == theirs.shape == ()
        assert ours.dtype == theirs.dtype
        agree(ours, theirs)


def test_no_pairs_give_no_scores(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    for call in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}, {"activation_fn": nn.Sigmoid()}):
        ours, theirs = mice.predict([], **call), stock.predict([], **call)
        assert type(ours) is type(theirs)
        assert len(ours) == 0
    assert mice.predict([]).shape == (0,)
    assert mice.rank(QUERY, []) == stock.rank(QUERY, []) == []


def test_scores_are_logits(mice: MiceCrossEncoder) -> None:
    assert isinstance(mice.activation_fn, nn.Identity)
    scores = mice.predict(PAIRS)
    with torch.no_grad():
        encoding = mice.tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
        agree(scores, mice.mice(**encoding).logits.squeeze(-1))
    agree(mice.predict(PAIRS, activation_fn=nn.Sigmoid()), 1 / (1 + np.exp(-scores.astype(np.float64))))


def test_scores_are_logits_where_the_folder_does_not_say(
    mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    settings = read(folder, "config_sentence_transformers.json")
    del settings["activation_fn"]
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    agree(MiceCrossEncoder(str(folder), device="cpu").predict(PAIRS), mice.predict(PAIRS))


def test_each_pair_scores_as_it_does_alone(mice: MiceCrossEncoder) -> None:
    together = mice.predict(PAIRS)
    assert np.ptp(together) > 0.1  # they differ, so that agreement says something
    agree(together, [mice.predict(pair) for pair in PAIRS])
    agree(together[::-1], mice.predict(PAIRS[::-1]))
    agree(np.tile(together, 3), mice.predict(PAIRS * 3, batch_size=4))


RANKS: list[dict[str, Any]] = [
    {},
    {"top_k": 2},
    {"top_k": 100},
    {"return_documents": True},
    {"return_documents": True, "top_k": 1},
    {"batch_size": 2},
    {"activation_fn": nn.Sigmoid()},
    {"prompt": "find: "},
    {"device": "cpu", "show_progress_bar": False},
    {"convert_to_tensor": True},  # accepted and ignored, as they do
]


@pytest.mark.parametrize("call", RANKS, ids=str)
def test_rank_is_what_stock_cross_encoder_returns(
    mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]
) -> None:
    ours, theirs = mice.rank(QUERY, DOCUMENTS, **call), stock.rank(QUERY, DOCUMENTS, **call)
    assert [list(hit) for hit in ours] == [list(hit) for hit in theirs]
    rank_alike(ours, theirs)
    assert all(hit.get("text", DOCUMENTS[hit["corpus_id"]]) == DOCUMENTS[hit["corpus_id"]] for hit in ours)
    assert {type(hit["score"]) for hit in ours} == {float}
    assert {type(hit["corpus_id"]) for hit in ours} == {int}
    json.dumps(ours)


def test_rank_takes_its_arguments_by_position(mice: MiceCrossEncoder) -> None:
    ranking = mice.rank(QUERY, DOCUMENTS, 2, True)
    assert len(ranking) == 2
    assert all(hit["text"] == DOCUMENTS[hit["corpus_id"]] for hit in ranking)


def test_rank_sorts_what_predict_scores(mice: MiceCrossEncoder) -> None:
    scores = mice.predict([(QUERY, document) for document in DOCUMENTS])
    ranking = mice.rank(QUERY, DOCUMENTS)
    best_first = np.argsort(-scores).tolist()
    rank_alike(ranking, [{"corpus_id": place, "score": float(scores[place])} for place in best_first])


# --- prompts ---


def test_a_prompt_stands_before_the_query_alone(mice: MiceCrossEncoder) -> None:
    written = mice.predict([("find: " + query, document) for query, document in PAIRS])
    assert np.abs(written - mice.predict(PAIRS)).max() > 1e-3
    agree(mice.predict(PAIRS, prompt="find: "), written)
    states = mice.encode_documents([document for _, document in PAIRS])
    stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
    agree(mice.predict(stored, prompt="find: "), written)


def test_named_prompts_are_saved_and_found(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    prompts = {"question": "find: ", "title": "title: "}
    MiceCrossEncoder(str(mice_folder), prompts=prompts, default_prompt_name="title", device="cpu").save(str(tmp_path))
    question, title = (mice.predict(PAIRS, prompt=prompt) for prompt in prompts.values())
    for loaded in (
        MiceCrossEncoder(str(tmp_path), device="cpu"),
        CrossEncoder(str(tmp_path), trust_remote_code=True, device="cpu"),
    ):
        agree(loaded.predict(PAIRS, prompt_name="question"), question)
        agree(loaded.predict(PAIRS), title)
        agree(loaded.predict(PAIRS, prompt=""), mice.predict(PAIRS))
        with pytest.raises(ValueError, match="nowhere"):
            loaded.predict(PAIRS, prompt_name="nowhere")
