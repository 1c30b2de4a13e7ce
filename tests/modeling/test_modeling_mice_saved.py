"""A saved model: the same scores again, no tensor too few or too many, no score that is not finite."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from tests.modeling.small_model import EVERYTHING, encode_pairs, score_pairs


@pytest.fixture
def saved(build: Callable[..., MiceForSequenceClassification], tmp_path: Path) -> Path:
    build(**EVERYTHING).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a saved model."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_saved_model_scores_the_same(build: Callable[..., MiceForSequenceClassification], saved: Path) -> None:
    original = build(**EVERYTHING)
    loaded = MiceForSequenceClassification.from_pretrained(saved)
    assert loaded.state_dict().keys() == original.state_dict().keys() == load_file(saved / "model.safetensors").keys()
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(score_pairs(loaded), score_pairs(original))
    half = MiceForSequenceClassification.from_pretrained(saved, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert score_pairs(half).dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [
        "classifier.weight",
        "pooler.bias",
        "pooled_residual_log_scale",
        "interaction.1.cross_attention.key.weight",
        "interaction.0.exact_match.value.weight",
        "backbone.encoder.layer.1.output.dense.bias",
        "backbone.embeddings.word_embeddings.weight",
    ],
)
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    edit(saved, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"missing_keys: \['{name}'\]"):
        MiceForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize(
    "name", ["stray.weight", "interaction.2.cross_attention.key.weight", "backbone.pooler.dense.bias"]
)
def test_an_extra_tensor_is_named(saved: Path, name: str) -> None:
    edit(saved, lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.raises(ValueError, match=rf"unexpected_keys: \['{name}'\]"):
        MiceForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["classifier.bias", "interaction.0.cross_attention.value.weight", "pooled_residual_log_scale"]
)
def test_weights_that_are_not_finite_give_an_error_never_a_score(saved: Path, name: str, value: float) -> None:
    edit(saved, lambda tensors: tensors[name].fill_(value))
    model = MiceForSequenceClassification.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"not finite in rows \[0, 1, 2, 3\]"):
        score_pairs(model)


@torch.no_grad()
def test_the_row_whose_states_are_not_finite_is_named(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    queries, documents = encode_pairs(model)
    documents.states[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"not finite in rows \[2\]"):
        model.score(queries, documents)
