"""Low-rank adapters on each projection that the fast path reads: the adapter counts, in every way to a score."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from tests.promises.one_score import QUERY, TOLERANCE, assert_one_score, fill, make_documents, padded_scores

Load = Callable[..., CrossEncoder]

PROJECTIONS = {
    "cross query": r".*interaction\.\d+\.cross_attention\.query",
    "cross key": r".*interaction\.\d+\.cross_attention\.key",
    "cross value": r".*interaction\.\d+\.cross_attention\.value",
    "cross query and value": r".*interaction\.\d+\.cross_attention\.(query|value)",
    "cross output": r".*interaction\.\d+\.cross_attention\.output",
    "self-attention": r".*interaction\.\d+\.self_attention\.(query|key|value)",
    "self output": r".*interaction\.\d+\.self_attention\.output",
    "feed-forward": r".*interaction\.\d+\.feed_forward\.(intermediate|output)",
    "pooler": r".*pooler.*dense",
    "classifier": r".*classifier",
    "exact match": r".*exact_match\.(value|output)",
    "backbone": r".*backbone\.encoder\.layer\.\d+\.attention\.self\.(query|value)",
    "by the last name": "query",
}


def adapter(targets: str, rank: int = 4, **fields: Any) -> LoraConfig:
    modules = [targets] if targets.isidentifier() else targets
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, **fields)


def randomise(model: CrossEncoder, seed: int = 0, name: str = "default") -> None:
    """An adapter's second matrix is born as zeros: it would change nothing."""
    network: Any = model[0].model
    found = {key: value for key, value in network.named_parameters() if f"lora_B.{name}" in key}
    assert found
    fill(found.values(), scale=0.5, seed=seed)


def has_targets(model: CrossEncoder, targets: str) -> bool:

    network: Any = model[0].model
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    return any(re.fullmatch(targets, name) or name.split(".")[-1] == targets for name in names)


@pytest.mark.parametrize("targets", PROJECTIONS.values(), ids=PROJECTIONS)
def test_one_score_with_an_adapter(load_either: Load, base_scores: np.ndarray, targets: str) -> None:
    model = load_either()
    if not has_targets(model, targets):
        pytest.skip("this model has no such layer as a Linear")
    model.add_adapter(adapter(targets))
    randomise(model)
    scores = assert_one_score(model)
    assert np.abs(scores - base_scores).max() > 1e-3


@pytest.mark.parametrize(
    "targets", [PROJECTIONS["cross query and value"], "Wqkv", "query", PROJECTIONS["feed-forward"]]
)
def test_one_score_with_an_adapter_on_a_pre_norm_backbone(load: Load, modernbert_folder: Path, targets: str) -> None:
    model = load(modernbert_folder)
    if not has_targets(model, targets):
        pytest.skip("this model has no such layer as a Linear")
    before = padded_scores(model)
    model.add_adapter(adapter(targets))
    randomise(model)
    scores = assert_one_score(model)
    assert np.abs(scores - before).max() > 1e-3


def test_disabled_it_is_the_base_model(load_either: Load, base_scores: np.ndarray) -> None:
    model = load_either()
    model.add_adapter(adapter(PROJECTIONS["cross query and value"]))
    randomise(model)
    changed = assert_one_score(model, counts=(1, 25))
    model.disable_adapters()
    assert_one_score(model, counts=(1, 25), expected=base_scores)
    model.enable_adapters()
    assert_one_score(model, counts=(1, 25), expected=changed)


def test_one_score_for_each_of_two_adapters(load_either: Load) -> None:
    model = load_either()
    scores = []
    for seed, name in enumerate(("first", "second")):
        model.add_adapter(adapter(PROJECTIONS["cross query and value"]), adapter_name=name)
        randomise(model, seed, name)
    for name in ("first", "second"):
        model.set_adapter(name)
        scores.append(assert_one_score(model, counts=(1, 5, 25)))
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.parametrize("targets", [PROJECTIONS["cross query and value"], PROJECTIONS["feed-forward"], "value"])
def test_merged_weights_give_the_scores_of_the_adapter(load: Load, targets: str) -> None:
    model = load()
    module: Any = model[0]
    wrapped = get_peft_model(module.model, adapter(targets, task_type=TaskType.SEQ_CLS))
    module.model = wrapped.base_model.model
    randomise(model)
    unmerged = assert_one_score(model, counts=(1, 2, 25))
    module.model = wrapped.merge_and_unload()
    assert not [name for name, _ in module.model.named_parameters() if "lora" in name]
    assert_one_score(model, counts=(1, 2, 25), expected=unmerged)


def test_the_wrapped_model_itself_scores_as_its_parts(load: Load) -> None:
    """``PeftModel`` called as a user of transformers alone calls it."""
    model = load()
    module: Any = model[0]
    wrapped = get_peft_model(module.model, adapter(PROJECTIONS["cross query and value"], task_type=TaskType.SEQ_CLS))
    module.model = wrapped.base_model.model
    randomise(model)
    documents = make_documents(5)
    encoding = model.tokenizer([QUERY] * 5, documents, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = wrapped.eval()(**encoding).logits.squeeze(-1).numpy()
    np.testing.assert_allclose(model.predict([(QUERY, document) for document in documents]), logits, atol=TOLERANCE)


def train_a_step(model: CrossEncoder) -> None:
    """Everything that takes gradients moves, by a lot."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.5)
    model.train()
    features = model.preprocess([(QUERY, document) for document in make_documents(4)])
    model(features)["scores"].square().mean().backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("task", [None, TaskType.SEQ_CLS])
def test_an_adapter_saves_what_was_trained_with_it_or_says_what_it_leaves_out(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: TaskType | None
) -> None:
    """An adapter alone leaves the head and the residuals as they were: whoever trains so has to be told, or served."""
    model = load()
    before = {name: value.clone() for name, value in model.mice.named_parameters()}
    with caplog.at_level(logging.WARNING):
        model.add_adapter(adapter(PROJECTIONS["cross query and value"], task_type=task))
    head = ("classifier", "pooled_residual_log_scale")
    is_trained = all(
        any(part in name and parameter.requires_grad for name, parameter in model.mice.named_parameters())
        for part in head
    )
    if not is_trained:
        assert "classifier" in caplog.text, "head and residuals stay as they were, and nobody says so"
        assert "pooled_residual" in caplog.text
    train_a_step(model)
    moved = [name for name, value in model.mice.named_parameters() if name in before and (value != before[name]).any()]
    assert is_trained <= bool(moved)
    scores = assert_one_score(model, counts=(1, 25))
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = MiceCrossEncoder(str(tmp_path / "adapter"), device="cpu")
    assert_one_score(loaded, counts=(1, 25), expected=scores)
