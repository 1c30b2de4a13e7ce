"""A store's fingerprint changes with what changes the states in it, and with nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mice_st import MiceCrossEncoder, convert
from mice_st.states.fingerprint import fingerprint_of

TEXTS = ["the capital of germany", "a river and a bridge"]
CHANGES_STATES: list[dict[str, Any]] = [
    {"document_states": "per_layer"},
    {"document_contextualization_layers": 1},
    {"interaction_hidden_size": 16},
    {"mask3_frame": True},
]
LEAVES_STATES: list[dict[str, Any]] = [
    {"interaction_order": "self_first"},
    {"interaction_attention": "joint"},
    {"query_self_attention": False},
    {"global_cls": True},
    {"query_attends_cls": True},
    {"cls_attends_document": False},
    {"exact_match": True},
    {"lexical_bias": True},
    {"score_scale": 0.5},
    {"empty_document_score": -7.0},
    {"max_sim_residual": True},
]


@pytest.fixture(scope="module")
def plain(cross_encoder_folder: Path) -> MiceCrossEncoder:
    return convert(cross_encoder_folder, 2, 2)[0]


def states_of(model: MiceCrossEncoder) -> list[torch.Tensor]:
    return [document.states for document in model.encode_documents(TEXTS)]


@pytest.mark.parametrize("fields", CHANGES_STATES + LEAVES_STATES, ids=str)
def test_the_fingerprint_changes_if_and_only_if_the_states_do(
    cross_encoder_folder: Path, plain: MiceCrossEncoder, fields: dict[str, Any]
) -> None:
    model, _ = convert(cross_encoder_folder, 2, 2, **fields)
    pairs: Iterator[tuple[torch.Tensor, torch.Tensor]] = zip(states_of(model), states_of(plain), strict=True)
    is_same = all(ours.shape == theirs.shape and torch.equal(ours, theirs) for ours, theirs in pairs)
    assert is_same == (fields in LEAVES_STATES)
    assert (fingerprint_of(model, "fp32") == fingerprint_of(plain, "fp32")) == is_same


def test_interaction_layers_that_documents_pass_through_count(cross_encoder_folder: Path) -> None:
    model, _ = convert(cross_encoder_folder, 2, 2, document_states="per_layer")
    before, states = fingerprint_of(model, "fp32"), states_of(model)
    layers: list[Any] = list(model.mice.interaction)
    with torch.no_grad():
        layers[1].self_attention.query.bias += 1.0  # the last layer's output is nobody's document
        layers[0].cross_attention.query.bias += 1.0
    assert fingerprint_of(model, "fp32") == before
    assert torch.equal(states_of(model)[0], states[0])
    with torch.no_grad():
        layers[0].feed_forward.output.bias += 1.0
    assert fingerprint_of(model, "fp32").weights_sha256 != before.weights_sha256
    assert not torch.equal(states_of(model)[0], states[0])
    trainable = {name for name, parameter in model.mice.named_parameters() if parameter.requires_grad}
    model.mice.freeze_contextualization()
    left = {name for name, parameter in model.mice.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trainable - left} == {"backbone", "interaction"}
    assert not any(name.startswith("interaction.0.self_attention") for name in left)
    assert any(name.startswith("interaction.0.cross_attention") for name in left)
    assert any(name.startswith("interaction.1.self_attention") for name in left)
