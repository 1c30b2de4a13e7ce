"""MiceCrossEncoder: input that is refused by its place, and modes and precisions that do not move a score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from tests.text_pairs import DOCUMENTS, PAIRS, QUERY, agree, cut_warnings


@pytest.fixture
def model(mice_folder: Path) -> MiceCrossEncoder:
    """One that a test may change."""
    return MiceCrossEncoder(str(mice_folder), device="cpu")


# --- bad input ---


@pytest.mark.parametrize("text", ["a dog", b"a dog"])
def test_one_text_is_not_a_list_of_documents(mice: MiceCrossEncoder, text: Any) -> None:
    with pytest.raises(ValueError, match=f"documents: expected a list of texts, got one {type(text).__name__}"):
        mice.rank(QUERY, text)
    with pytest.raises(ValueError, match=f"documents: expected a list of texts, got one {type(text).__name__}"):
        mice.encode_documents(text)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "is of type NoneType, not a string"),
        (7, "is of type int, not a string"),
        (b"a dog", "is of type bytes, not a string"),
        ("cat\ud800", "holds a lone surrogate at character 3"),
    ],
)
def test_a_document_that_is_no_text_is_named_by_its_place(mice: MiceCrossEncoder, document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"document 2 {message}"):
        mice.encode_documents(["a dog", "a cat", document])
    with pytest.raises(ValueError, match=f"document 2 {message}"):
        mice.rank(QUERY, ["a dog", "a dog", document])
    with pytest.raises(ValueError, match=f"pair 2: the document {message}"):
        mice.predict([(QUERY, "a dog"), (QUERY, "a dog"), (QUERY, document)])


def test_a_query_that_is_no_text_is_named(mice: MiceCrossEncoder) -> None:
    with pytest.raises(ValueError, match="pair 0: the query is of type NoneType"):
        mice.rank(None, DOCUMENTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_batch_size_is_refused(mice: MiceCrossEncoder, stock: CrossEncoder, size: int) -> None:
    for model in (mice, stock):
        with pytest.raises(ValueError, match=f"batch_size must be a positive integer, got {size}"):
            model.predict(PAIRS, batch_size=size)


def test_states_that_are_not_finite_never_become_a_score(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    states = mice.encode_documents(["a dog", "a cat"])
    states[1].states[0, 0] = torch.nan
    for model in (mice, stock):
        with pytest.raises(ValueError, match="not finite"):
            model.rank(QUERY, states)


def test_a_refused_call_leaves_the_model_as_it_was(model: MiceCrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    expected = model.predict(PAIRS[:3])
    with pytest.raises(ValueError, match="pair 1"):
        model.predict([("who " * 40, "a dog"), ("who", "\ud800")])
    caplog.clear()
    agree(model.predict(PAIRS[:3]), expected)
    assert cut_warnings(caplog) == []  # what the refused call cut is not counted in the next


def test_another_models_folder_is_refused(cross_encoder_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"not a MICE model.*mice_st\.convert"):
        MiceCrossEncoder(str(cross_encoder_folder), device="cpu")


# --- modes and precisions ---


def test_scoring_switches_dropout_off(model: MiceCrossEncoder, mice: MiceCrossEncoder) -> None:
    model.train()
    agree(model.predict(PAIRS), mice.predict(PAIRS))
    model.train()
    agree(model.encode_documents(DOCUMENTS)[1].states, mice.encode_documents(DOCUMENTS)[1].states)
    model.train()
    agree(
        [hit["score"] for hit in model.rank(QUERY, mice.encode_documents(DOCUMENTS))],
        [hit["score"] for hit in mice.rank(QUERY, DOCUMENTS)],
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_gives_float32_scores(
    mice: MiceCrossEncoder, mice_folder: Path, dtype: torch.dtype, tolerance: float
) -> None:
    expected = mice.predict(PAIRS)
    for model in (
        MiceCrossEncoder(str(mice_folder), model_kwargs={"dtype": dtype}, device="cpu"),
        CrossEncoder(str(mice_folder), model_kwargs={"dtype": dtype}, trust_remote_code=True, device="cpu"),
    ):
        scores = model.predict(PAIRS)
        assert scores.dtype == np.float32
        agree(scores, expected, tolerance)
        states = mice.encode_documents([document for _, document in PAIRS])
        stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
        agree(model.predict(stored), expected, tolerance)
