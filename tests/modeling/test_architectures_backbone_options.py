"""Options of MiceConfig on every type of backbone: one score along every path, and documents as transformers has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel, AutoModelForSequenceClassification

from mice_st import convert
from mice_st.states.packed import PackedStates
from tests.modeling.backbones import BACKBONES, LAYERS, hidden_states, make_config, make_tokenizer, normalised

TEXTS = ["where is berlin", "a river and a bridge in the city of berlin, open to people", "cat", "", "the capital 2 2"]
OPTIONS: list[dict[str, Any]] = [
    {"document_states": "per_layer"},
    {"interaction_hidden_size": 16, "pooled_residual": True, "max_sim_residual": True},
    {"exact_match": True, "pooled_residual": True, "pooling": "cls"},
    {"mask3_frame": True},
    {"mask3_frame": True, "query_attends_cls": True, "document_states": "per_layer", "pooled_residual": True},
    {"document_contextualization_layers": 3, "lexical_bias": True},
    {"query_self_attention": False, "global_cls": True},
    {"interaction_attention": "joint", "document_states": "per_layer", "cls_attends_document": False},
]

every_backbone = pytest.mark.parametrize("name", BACKBONES)


def padded(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    encoding = make_tokenizer(name)(TEXTS, padding=True, return_tensors="pt")
    return encoding["input_ids"], encoding["attention_mask"]


@every_backbone
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_every_path_gives_one_score(
    backbone_folders: dict[str, Path],
    shake: Callable[..., None],
    name: str,
    options: dict[str, Any],
    attention: str,
) -> None:
    if BACKBONES[name].model_type == "modernbert" and options.get("interaction_attention") == "joint":
        pytest.skip("refused, see test_architectures_bad_input.py")
    fixed = {"interaction_attention", "query_self_attention"} & set(options)  # these leave one order
    order = "cross_first" if attention == "sdpa" or fixed else "self_first"
    model = convert(
        backbone_folders[name], 2, 2, query_max_length=24, document_max_length=24, interaction_order=order, **options
    )[0].mice
    model.set_attn_implementation(attention)
    shake(model, seed=6)
    if model.config.pooled_residual:
        model.pooled_residual_log_scale.fill_(0.0)
    ids, mask = padded(name)
    queries = model.encode_queries(ids, mask)
    if not model.config.mask3_frame:
        documents = model.encode_documents(ids, mask)
    else:
        documents = model.encode_documents(ids[:, 1:], mask[:, 1:])
    stored = PackedStates.from_documents(documents.unpad(), "fp32")
    for row in range(len(TEXTS)):
        query = queries.select(torch.tensor([row]))
        expected = model.score(queries.select(torch.full((len(TEXTS),), row)), documents).squeeze(-1)
        assert expected.std() > 1e-3
        for given in (documents.unpad(), stored):
            scores = model.score_documents(query, given, 2)
            torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-6)


@every_backbone
@torch.no_grad()
def test_documents_that_go_on_are_transformers_own_hidden_states(backbone_folders: dict[str, Path], name: str) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(backbone_folders[name])
    model = convert(backbone_folders[name], 1, 3, document_states="per_layer")[0].mice
    ids, mask = padded(name)
    states = model.encode_documents(ids, mask).states.chunk(3, dim=-1)
    expected = hidden_states(name, original, ids, mask)[1:LAYERS]
    for ours, theirs in zip(states, expected, strict=True):
        kept = mask.bool()
        torch.testing.assert_close(ours[kept], normalised(name, theirs)[kept], atol=2e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", ["roberta", "electra", "modernbert", "ettin"])
def test_an_embedding_model_scores_as_it_did(
    shake: Callable[..., None], tmp_path: Path, name: str, pooling: str
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = AutoModel.from_config(make_config(name))
    shake(encoder, seed=7, scale=0.2)
    encoder.save_pretrained(tmp_path / "encoder")
    make_tokenizer(name).save_pretrained(tmp_path / "encoder")
    modules = [Transformer(str(tmp_path / "encoder"), max_seq_length=24), Pooling(32, pooling)]
    embedder = SentenceTransformer(modules=modules, device="cpu")
    embedder.save(str(tmp_path / "embedder"), create_model_card=False)
    model, report = convert(tmp_path / "embedder")
    assert set(report.fresh) == {"classifier.weight", "classifier.bias", "pooled_residual_log_scale"}
    queries, documents = TEXTS[:3], TEXTS[:0:-1]
    pairs = [(query, document) for query in queries for document in documents if document]
    vectors = [embedder.encode([pair[side] for pair in pairs], convert_to_tensor=True) for side in (0, 1)]
    expected = 20 * torch.cosine_similarity(*vectors)
    assert expected.std() > 0.1
    np.testing.assert_allclose(model.predict(pairs), expected.numpy(), atol=1e-4, rtol=0)
