"""Stored states are bound to what made them: the adapter that was active, and how much it counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils import parametrize

from mice_st import MiceCrossEncoder
from mice_st.states.errors import StoreMismatchError
from mice_st.states.fingerprint import fingerprint_of
from tests.promises.one_score import QUERY, fill, make_documents

Load = Callable[..., MiceCrossEncoder]

DOCUMENT_LAYERS = r".*backbone\.encoder\.layer\.\d+\.attention\.self\.(query|value)"
QUERY_LAYERS = r".*interaction\.\d+\.cross_attention\.(query|value)"


def prints(model: MiceCrossEncoder) -> Any:
    return fingerprint_of(model, "fp32", "")


def add(model: MiceCrossEncoder, targets: str, name: str = "default", seed: int = 0) -> None:
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets), adapter_name=name)
    matrices = [value for key, value in model.mice.named_parameters() if "lora_" in key and f".{name}." in key]
    assert matrices
    fill(matrices, scale=0.5, seed=seed)


def states(model: MiceCrossEncoder) -> torch.Tensor:
    return torch.cat([document.states for document in model.encode_documents(make_documents(4))])


def scale(model: MiceCrossEncoder, factor: float | None) -> None:
    """None brings back the adapter's own scale."""
    for module in model.mice.modules():
        if isinstance(module, LoraLayer):
            module.unscale_layer() if factor is None else module.scale_layer(factor)


def test_an_adapter_on_the_documents_way_counts_while_it_is_enabled(load: Load) -> None:
    model = load()
    base, base_states = prints(model), states(model)
    add(model, DOCUMENT_LAYERS)
    adapted = prints(model)
    assert adapted != base
    assert not torch.allclose(states(model), base_states, atol=1e-3)
    model.disable_adapters()
    torch.testing.assert_close(states(model), base_states, atol=1e-5, rtol=0)
    assert prints(model) == base
    model.enable_adapters()
    assert prints(model) == adapted


def test_another_scaling_is_another_model(load: Load) -> None:
    model = load()
    add(model, DOCUMENT_LAYERS)
    first, first_states = prints(model), states(model)
    scale(model, 0.5)
    assert not torch.allclose(states(model), first_states, atol=1e-3)
    assert prints(model) != first


def test_another_active_adapter_is_another_model(load: Load) -> None:
    model = load()
    found: dict[str, str] = {}
    for seed, name in enumerate(("first", "second")):
        add(model, DOCUMENT_LAYERS, name, seed)
    for name in ("first", "second", "first"):
        model.set_adapter(name)
        found.setdefault(name, prints(model))
        assert prints(model) == found[name]
    assert found["first"] != found["second"]


def test_an_adapter_that_trains_on_is_another_model(load: Load) -> None:
    model = load()
    add(model, DOCUMENT_LAYERS)
    before = prints(model)
    fill([value for key, value in model.mice.named_parameters() if "lora_B" in key], scale=0.5, seed=1)
    assert prints(model) != before


def test_what_documents_do_not_pass_through_leaves_it_alone(load: Load) -> None:
    model = load()
    base = prints(model)
    add(model, QUERY_LAYERS)
    assert prints(model) == base
    model.disable_adapters()
    assert prints(model) == base


def test_the_same_adapter_on_the_same_model_has_the_same_fingerprint(load: Load) -> None:
    """Nothing of it hangs on addresses in memory, or on how often it was asked for."""
    found = []
    for _ in range(2):
        model = load()
        add(model, DOCUMENT_LAYERS)
        found.append(prints(model))
        assert prints(model) == found[-1]
    assert found[0] == found[1]


def test_a_parametrisation_counts(load: Load) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    model = load()
    base = prints(model)
    layer: Any = model.mice.get_submodule("backbone.encoder.layer.0.intermediate.dense")
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert prints(model) != base


def test_a_store_made_with_one_adapter_is_refused_by_another(load: Load, tmp_path: Path) -> None:
    from mice_st.data.collection import Document
    from mice_st.states.encoding import encode_corpus
    from mice_st.states.engines import open_store

    model = load()
    for seed, name in enumerate(("first", "second")):
        add(model, DOCUMENT_LAYERS, name, seed)
    model.set_adapter("first")
    corpus = [Document(str(place), text) for place, text in enumerate(make_documents(6))]
    with open_store(tmp_path / "states.sqlite", prints(model), read_only=False) as store:
        encode_corpus(model, corpus, store)
    with open_store(tmp_path / "states.sqlite", None, read_only=True) as store:
        ids = [document.id for document in corpus]
        ranked = {hit["corpus_id"]: hit["score"] for hit in model.rank(QUERY, store=store, ids=ids)}
        texts = {str(hit["corpus_id"]): hit["score"] for hit in model.rank(QUERY, [text.text for text in corpus])}
        assert ranked == pytest.approx(texts, abs=1e-5)
        model.set_adapter("second")
        with pytest.raises(StoreMismatchError):
            model.rank(QUERY, store=store, ids=ids)
        model.set_adapter("first")
        scale(model, 0.5)
        with pytest.raises(StoreMismatchError):
            model.rank(QUERY, store=store, ids=ids)
        scale(model, None)
        model.disable_adapters()
        with pytest.raises(StoreMismatchError):
            model.rank(QUERY, store=store, ids=ids)
        model.enable_adapters()
        again = {hit["corpus_id"]: hit["score"] for hit in model.rank(QUERY, store=store, ids=ids)}
        assert again == pytest.approx(ranked, abs=1e-6)
