"""The model's scores, whatever the batch, its padding, the kernel of attention and the precision."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from tests.modeling.small_model import (
    BACKBONE,
    CLS,
    EVERYTHING,
    PAIRS,
    SEP,
    encode_pairs,
    frame,
    layers_of,
    pad,
    pair_rows,
    score_pairs,
)


@pytest.mark.parametrize("order", ["cross_first", "self_first"])
def test_eager_and_fused_attention_agree(build: Callable[..., MiceForSequenceClassification], order: str) -> None:
    fused, eager = (
        build(attention=attention, cls_attends_document=False, interaction_order=order, **EVERYTHING)
        for attention in ("sdpa", "eager")
    )
    assert eager.backbone.config._attn_implementation == "eager"
    torch.testing.assert_close(score_pairs(eager), score_pairs(fused), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_and_batch_composition_do_not_move_scores(
    build: Callable[..., MiceForSequenceClassification], attention: str
) -> None:
    model = build(attention=attention, **EVERYTHING)
    expected = score_pairs(model)
    wide = model.score(*encode_pairs(model, extra=9)).squeeze(-1)
    torch.testing.assert_close(wide, expected, atol=1e-6, rtol=0)
    alone = [
        model.score(model.encode_queries(*pad([frame(q)])), model.encode_documents(*pad([frame(d)]))).item()
        for q, d in PAIRS
    ]
    torch.testing.assert_close(torch.tensor(alone), expected, atol=1e-6, rtol=0)
    order = torch.tensor([3, 1, 1, 0, 2])
    queries, documents = encode_pairs(model)
    shuffled = model.score(queries.select(order), documents.select(order)).squeeze(-1)
    torch.testing.assert_close(shuffled, expected[order], atol=1e-6, rtol=0)


@torch.no_grad()
def test_what_padding_holds_is_not_read(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(**EVERYTHING)
    queries, documents = encode_pairs(model)
    expected = model.score(queries, documents)
    # Token 10 stands in the queries: read as a document token it would match.
    ids, mask = pad([frame(document) for _, document in PAIRS], length=20, filler=10)
    torch.testing.assert_close(model.score(queries, model.encode_documents(ids, mask)), expected, atol=1e-6, rtol=0)
    spoilt = documents.states.masked_fill(~documents.attention_mask.unsqueeze(-1), 1e3)
    torch.testing.assert_close(model.score(queries, documents._replace(states=spoilt)), expected, atol=1e-6, rtol=0)
    spoilt = queries.states.masked_fill(~queries.attention_mask.unsqueeze(-1), 1e3)
    torch.testing.assert_close(model.score(queries._replace(states=spoilt), documents), expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("blind", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    build: Callable[..., MiceForSequenceClassification], blind: bool
) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = build(cls_attends_document=not blind, **EVERYTHING).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        count: list[int] = []
        for layer in layers_of(model):
            layer.feed_forward.intermediate.register_forward_hook(lambda *_, count=count: count.append(1))
        model(*pad(pair_rows()), labels=torch.tensor([1.0, 0.0, 0.5, 2.0])).loss.backward()
        calls.append(len(count))
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert calls == [2, 4]  # every interaction layer once more
    plain, saved = gradients
    unread = {name for name, gradient in plain.items() if gradient is None}
    assert unread == {name for name, gradient in saved.items() if gradient is None} == set()
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_with_a_float32_head(
    build: Callable[..., MiceForSequenceClassification], dtype: torch.dtype, attention: str
) -> None:
    model = build(attention=attention, **EVERYTHING)
    expected = score_pairs(model)
    half = build(attention=attention, **EVERYTHING).to(dtype)
    scores = score_pairs(half)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=0.1 if dtype == torch.bfloat16 else 0.01, rtol=0)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    pooled = torch.tanh(F.linear(rows, half.pooler.weight, half.pooler.bias)).float()
    exact = pooled @ half.classifier.weight.float().T + half.classifier.bias.float()
    torch.testing.assert_close(half.head(rows.unsqueeze(1)), exact, atol=1e-6, rtol=0)
    assert not torch.equal(exact, exact.to(dtype).float())  # a head in half precision would have rounded
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.head(rows.float().unsqueeze(1)).dtype == torch.float32


# --- what [CLS] reads of the document ---


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_blind_cls_is_not_moved_by_the_document(
    build: Callable[..., MiceForSequenceClassification], attention: str
) -> None:
    model = build(interaction_layers=2, cls_attends_document=False, attention=attention)
    queries, documents = encode_pairs(model)
    outputs: list[Tensor] = []
    layer = layers_of(model)[0].cross_attention
    layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model.score(queries, documents)
    noise = torch.randn(documents.states.shape, generator=torch.Generator().manual_seed(0))
    model.score(queries, documents._replace(states=documents.states + noise))
    before, after = outputs
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3
    # What attention gives it is zero, not a mean: only the output's bias is left.
    untouched = layer.norm(queries.states[:, 0] + layer.output.bias)
    torch.testing.assert_close(before[:, 0], untouched, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_blind_cls_learns_of_the_document_through_the_query(
    build: Callable[..., MiceForSequenceClassification],
) -> None:
    model = build(interaction_layers=2, cls_attends_document=False)
    queries, documents = encode_pairs(model)
    moved = documents._replace(states=documents.states.flip(2))
    assert (model.score(queries, documents) - model.score(queries, moved)).abs().max() > 1e-3


# --- the pooled residual ---


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_with_a_zero_head_the_residual_is_an_embedding_model(
    build: Callable[..., MiceForSequenceClassification], pooling: str
) -> None:
    model = build(pooled_residual=True, pooling=pooling)
    model.classifier.weight.zero_()
    model.classifier.bias.zero_()
    model.pooled_residual_log_scale.fill_(math.log(7.0))
    bert = BertModel(model.config.backbone_config, add_pooling_layer=False).eval()
    bert.load_state_dict(model.backbone.state_dict())

    def embed(tokens: list[int]) -> Tensor:
        states = bert(torch.tensor([frame(tokens)])).last_hidden_state[0]
        return states[0] if pooling == "cls" else states.mean(0)

    expected = [7.0 * torch.cosine_similarity(embed(q), embed(d), dim=0).item() for q, d in PAIRS]
    torch.testing.assert_close(score_pairs(model), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_fresh_residual_scales_by_twenty() -> None:
    config = MiceConfig(
        BertConfig(**BACKBONE),
        pooled_residual=True,
        document_max_length=24,
        query_max_length=12,
        cls_token_id=CLS,
        sep_token_id=SEP,
    )
    assert MiceForSequenceClassification(config).pooled_residual_log_scale.exp().item() == pytest.approx(20.0)
