"""A projection that is more than its weight is called: quantised, offloaded, re-parametrised and hooked layers count."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.promises.one_score import QUERIES, assert_one_line, assert_one_score, fill, make_documents, padded_scores

Load = Callable[..., CrossEncoder]

PROJECTIONS = [
    "interaction.0.cross_attention.query",
    "interaction.0.cross_attention.key",
    "interaction.0.cross_attention.value",
    "interaction.1.cross_attention.output",
    "interaction.0.self_attention.key",
    "interaction.1.self_attention.value",
    "interaction.0.feed_forward.intermediate",
    "interaction.1.feed_forward.output",
    "interaction.0.exact_match.value",
    "classifier",
]


def network_of(model: CrossEncoder) -> Any:
    return model[0].model


# --- hooks ---


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_hook_on_a_projection_counts(load_either: Load, base_scores: np.ndarray, name: str) -> None:
    model = load_either()
    handle = network_of(model).get_submodule(name).register_forward_hook(lambda _module, _inputs, output: output * 1.5)
    scores = assert_one_score(model)
    assert np.abs(scores - base_scores).max() > 1e-4
    handle.remove()
    assert_one_score(model, counts=(1, 25), expected=base_scores)


def test_a_hook_before_a_projection_counts(load_either: Load, base_scores: np.ndarray) -> None:
    model = load_either()
    projection = network_of(model).get_submodule("interaction.0.cross_attention.value")
    projection.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.5,))
    scores = assert_one_score(model)
    assert np.abs(scores - base_scores).max() > 1e-4


# --- parametrisations ---


class Doubled(nn.Module):
    """A weight that is twice what is stored."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_parametrisation_counts(load_either: Load, base_scores: np.ndarray, name: str) -> None:
    model = load_either()
    parametrize.register_parametrization(network_of(model).get_submodule(name), "weight", Doubled())
    scores = assert_one_score(model, counts=(1, 5, 40))
    assert np.abs(scores - base_scores).max() > 1e-4


@pytest.mark.parametrize("name", PROJECTIONS[:4])
def test_weight_norm_counts(load_either: Load, base_scores: np.ndarray, name: str) -> None:
    model = load_either()
    projection = parametrizations.weight_norm(network_of(model).get_submodule(name))
    assert_one_score(model, counts=(1, 25), expected=base_scores)  # a factorisation of the same weight
    fill([projection.parametrizations.weight.original0], scale=1.0)
    scores = assert_one_score(model, counts=(1, 25))
    assert np.abs(scores - base_scores).max() > 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_counts(load_either: Load, base_scores: np.ndarray) -> None:
    """It sets a plain attribute in a hook before the call: who reads the weight without calling reads an old one."""
    model = load_either()
    projection = torch.nn.utils.weight_norm(network_of(model).get_submodule("interaction.0.cross_attention.value"))
    fill([projection.weight_g], scale=1.0)
    scores = assert_one_score(model, counts=(1, 25))
    assert np.abs(scores - base_scores).max() > 1e-4


# --- a class of one's own in place of a Linear ---


class Halved(nn.Linear):
    """A Linear that does something else with its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


@pytest.mark.parametrize("name", PROJECTIONS[:4])
def test_a_sub_class_of_linear_counts(load_either: Load, base_scores: np.ndarray, name: str) -> None:
    model = load_either()
    projection = network_of(model).get_submodule(name)
    projection.__class__ = Halved
    scores = assert_one_score(model, counts=(1, 25))
    assert np.abs(scores - base_scores).max() > 1e-4


# --- offload ---


def test_offload_to_memory_changes_no_score(load_either: Load, base_scores: np.ndarray) -> None:
    from accelerate import cpu_offload

    model = load_either()
    cpu_offload(network_of(model), execution_device=torch.device("cpu"))
    model.clear_placement_cache()  # as sentence-transformers asks for after hooks are attached
    assert any(parameter.is_meta for parameter in network_of(model).parameters())
    assert_one_score(model, expected=base_scores)


def test_offload_reaches_the_parameters_of_the_residuals(load: Load, max_sim_folder: Path) -> None:
    """They are not a layer's: only a hook of the whole model, or of the residual, brings them back."""
    from accelerate import cpu_offload

    expected = padded_scores(load(max_sim_folder))
    model = load(max_sim_folder)
    cpu_offload(network_of(model), execution_device=torch.device("cpu"))
    model.clear_placement_cache()  # as sentence-transformers asks for after hooks are attached
    assert_one_score(model, counts=(1, 25), expected=expected)


def test_offload_to_disk_changes_no_score(load_either: Load, base_scores: np.ndarray, tmp_path: Path) -> None:
    from accelerate import disk_offload

    model = load_either()
    disk_offload(network_of(model), str(tmp_path), execution_device=torch.device("cpu"))
    model.clear_placement_cache()  # as sentence-transformers asks for after hooks are attached
    assert_one_score(model, expected=base_scores)


# --- quantised ---


def test_weight_only_int8_scores_the_same_in_every_way(load_either: Load, base_scores: np.ndarray) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = load_either()
    network = network_of(model)
    quantize_(network, Int8WeightOnlyConfig())
    try:
        model.predict((QUERIES[0], "a dog"))
    except ValueError as error:  # one clear line is an answer
        assert_one_line(error, "quanti")
        return
    scores = assert_one_score(model)
    assert 0 < np.abs(scores - base_scores).max() < 0.1


def test_the_fingerprint_of_a_quantised_model_is_its_own(load: Load) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    from mice_st.states.fingerprint import fingerprint_of

    model = load()
    before = fingerprint_of(model, "fp32")
    quantize_(network_of(model), Int8WeightOnlyConfig())
    try:
        assert fingerprint_of(model, "fp32") != before
    except ValueError as error:
        assert_one_line(error, "quanti")


def test_dynamic_int8_is_called_or_refused(load_either: Load, base_scores: np.ndarray) -> None:
    """Its activations are scaled per batch, so a score hangs on its neighbours; it has to be that of the batch, or none."""
    model = load_either()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(network_of(model)), {nn.Linear}, dtype=torch.qint8
        )
    model[0].model = quantized
    alone = ["the capital of germany"]
    try:
        padded = padded_scores(model, alone)
        found = [[float(score) for score in model.predict([(query, *alone)])] for query in QUERIES]
        many = model.predict([(QUERIES[0], document) for document in make_documents(25)])
    except ValueError as error:
        assert_one_line(error, "quanti")
        return
    np.testing.assert_allclose(found, padded, atol=1e-5)
    np.testing.assert_allclose(many, base_scores[0, :25], atol=0.3)
