"""Weights that are not in the checkpoint: larger vocabularies, other sizes, the meta device. Nothing is left unset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from mice_st import MiceCrossEncoder
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from tests.promises.one_score import assert_one_score, padded_scores

Load = Callable[..., CrossEncoder]

EVERYTHING: dict[str, dict[str, Any]] = {
    "split": {"exact_match": True, "pooled_residual": True, "interaction_layers": 2},
    "max-sim": {"max_sim_residual": True, "interaction_layers": 1, "pooler": False},
    "global [CLS]": {"global_cls": True, "interaction_layers": 2},
    "narrow": {"interaction_hidden_size": 16, "pooled_residual": True, "interaction_layers": 1},
    "lexical": {"lexical_bias": True, "interaction_layers": 1},
}
POISON = 7.75e5


def make_config(bert_config: Callable[..., Any], fields: dict[str, Any]) -> MiceConfig:
    return MiceConfig(
        backbone_config=bert_config(num_hidden_layers=2),
        cls_token_id=2,
        sep_token_id=3,
        document_max_length=32,
        **fields,
    )


def poison(model: torch.nn.Module) -> None:
    """What memory may hold where nobody writes."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(POISON)


def assert_initialised(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert not parameter.is_meta, name
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() < 30, name  # log(20) and norms of ones are the largest that a start has
    for name, buffer in model.named_buffers():
        assert not buffer.is_meta, name
        assert buffer.abs().max() < 1000, name


# --- larger vocabularies ---


@pytest.mark.parametrize("more", [1, 9, 64])
def test_a_larger_vocabulary_changes_no_score(
    load_either: Load, max_sim_folder: Path, tmp_path: Path, more: int
) -> None:
    """The weights that MaxSim has for tokens grow with the embeddings."""
    model = load_either(max_sim_folder)
    network: Any = model[0].model
    expected = padded_scores(model)
    rows = network.config.vocab_size + more
    network.resize_token_embeddings(rows)
    assert network.config.vocab_size == rows
    assert_one_score(model, counts=(1, 5, 25), expected=expected)
    last = torch.tensor([[2, rows - 1, 3, 5, rows - 1, 3]])
    with torch.no_grad():
        assert network(input_ids=last).logits.isfinite().all()
    model.save_pretrained(str(tmp_path / "larger"))
    loaded = MiceCrossEncoder(str(tmp_path / "larger"), device="cpu")
    assert loaded.mice.get_input_embeddings().weight.shape[0] == rows  # type: ignore[union-attr,index]
    assert_one_score(loaded, counts=(1, 25), expected=expected)


def test_a_new_token_counts_as_much_as_an_average_one(load: Load, max_sim_folder: Path) -> None:
    """Its weight in MaxSim is no accident of memory: it lies among those of the other tokens."""
    model = load(max_sim_folder)
    network: Any = model[0].model
    known = network.max_sim_residual.log_weights.detach().clone()
    network.resize_token_embeddings(len(known) + 5)
    weights = network.max_sim_residual.log_weights
    assert weights.shape == (len(known) + 5,)
    assert torch.equal(weights[: len(known)], known)
    assert ((weights[len(known) :] >= known.min()) & (weights[len(known) :] <= known.max())).all()


def test_a_vocabulary_padded_to_a_multiple(load: Load, mice_folder: Path) -> None:
    model = load(mice_folder)
    expected = padded_scores(model)
    network: Any = model[0].model
    network.resize_token_embeddings(network.config.vocab_size + 1, pad_to_multiple_of=64)
    assert network.config.vocab_size % 64 == 0
    assert_one_score(model, counts=(1, 25), expected=expected)


def test_documents_with_layers_of_their_own_get_the_new_tokens_too(
    cross_encoder_folder: Path, tokenizer: Any, bert_config: Callable[..., Any]
) -> None:
    config = make_config(bert_config, {"document_contextualization_layers": 3, "interaction_layers": 1})
    model = MiceForSequenceClassification(config).eval()
    model.resize_token_embeddings(config.vocab_size + 4)
    ids = torch.tensor([[2, config.vocab_size - 1, 3]])
    with torch.no_grad():
        assert model.encode_documents(ids, torch.ones_like(ids)).states.isfinite().all()
        assert model.encode_queries(ids, torch.ones_like(ids)).states.isfinite().all()


# --- other sizes than the checkpoint's ---


def test_mismatched_sizes_are_initialised_not_left(mice_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is poisoned here; otherwise it is mostly zeros, and the mistake shows once in a while."""
    real = torch.empty_like
    monkeypatch.setattr(
        torch,
        "empty_like",
        lambda *args, **kwargs: (
            made.fill_(POISON) if (made := real(*args, **kwargs)).is_floating_point() and not made.is_meta else made
        ),
    )
    torch.manual_seed(0)
    config = MiceConfig.from_pretrained(mice_folder)
    config.backbone_config.intermediate_size += 8
    model = MiceForSequenceClassification.from_pretrained(mice_folder, config=config, ignore_mismatched_sizes=True)
    assert_initialised(model)
    spread = model.get_parameter("interaction.0.feed_forward.intermediate.weight").std()
    assert 0.5 * config.backbone_config.initializer_range < spread < 2 * config.backbone_config.initializer_range


def test_mismatched_residuals_are_initialised(max_sim_folder: Path) -> None:
    config = MiceConfig.from_pretrained(max_sim_folder)
    config.backbone_config.vocab_size += 3
    for _ in range(3):
        blocks = [torch.full((config.vocab_size,), POISON) for _ in range(8)]
        del blocks  # their memory is what the next tensor of this size gets
        model = MiceForSequenceClassification.from_pretrained(
            max_sim_folder, config=config, ignore_mismatched_sizes=True
        )
        assert_initialised(model)
        assert len(model.max_sim_residual.log_weights) == config.vocab_size


@pytest.mark.parametrize("way", ["transformers", "ours"])
def test_without_the_flag_mismatched_sizes_are_refused(mice_folder: Path, way: str) -> None:
    config = MiceConfig.from_pretrained(mice_folder)
    config.backbone_config.intermediate_size += 8
    loader = AutoModelForSequenceClassification if way == "transformers" else MiceForSequenceClassification
    with pytest.raises((RuntimeError, ValueError), match=r"intermediate|mismatch"):
        loader.from_pretrained(mice_folder, config=config, trust_remote_code=True)


# --- the meta device ---


@pytest.mark.parametrize("fields", EVERYTHING.values(), ids=EVERYTHING)
def test_a_model_made_on_the_meta_device_can_be_initialised(
    bert_config: Callable[..., Any], fields: dict[str, Any]
) -> None:
    config = make_config(bert_config, fields)
    with torch.device("meta"):
        model = MiceForSequenceClassification(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    poison(model)
    for parameter in model.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model.init_weights()
    assert_initialised(model)
    torch.manual_seed(1)
    fresh = dict(MiceForSequenceClassification(config).named_parameters())
    for name, parameter in model.named_parameters():
        # Of one kind: constant where the start is a constant, as wide where it is random.
        if fresh[name].numel() > 1 and fresh[name].std() > 0:
            assert 0.3 < float(parameter.std() / fresh[name].std()) < 3, name
        else:
            torch.testing.assert_close(parameter, fresh[name])
    ids = torch.tensor([[2, 20, 21, 3, 22, 20, 3]])
    with torch.no_grad():
        assert model.eval()(input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize("fields", EVERYTHING.values(), ids=EVERYTHING)
def test_every_parameter_has_its_start_in_init_weights(bert_config: Callable[..., Any], fields: dict[str, Any]) -> None:
    """``_init_weights`` alone, over memory that holds anything: what it does not know stays poisoned."""
    model = MiceForSequenceClassification(make_config(bert_config, fields))
    poison(model)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]
            module._is_hf_initialized = False  # type: ignore[assignment]
            model._init_weights(module)
    poisoned = [name for name, parameter in model.named_parameters() if (parameter == POISON).any()]
    assert poisoned == []


def test_loading_without_memory_for_a_second_copy_gives_the_same_scores(load: Load, base_scores: np.ndarray) -> None:
    model = load(model_kwargs={"low_cpu_mem_usage": True})
    assert_one_score(model, counts=(1, 5), expected=base_scores)
