"""The fast path against the obvious one: the same scores, whatever the documents, the query and the configuration."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mice_st.modeling import interaction_mice
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.interaction_mice import absorbing_pays, score_documents
from mice_st.modeling.layers_mice import DocumentStates, EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.states.packed import PackedStates

VOCABULARY = 60
TOLERANCE = 1e-5  # float32; the relative 1e-6 beside it is for scores beyond 10, where one step of float32 is as large


def build(seed: int = 0, **fields: Any) -> MiceForSequenceClassification:
    """A tiny model with every parameter off its start, so that nothing is zero by chance."""
    backbone = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
    }
    config = MiceConfig(backbone_config=backbone, cls_token_id=2, sep_token_id=3, **fields)
    torch.manual_seed(seed)
    model = MiceForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def documents_of(model: MiceForSequenceClassification, lengths: list[int], seed: int = 0) -> list[DocumentStates]:
    """Random states; ids from a small vocabulary, so that exact matches are many."""
    generator = torch.Generator().manual_seed(seed)
    width = model.config.interaction_width
    return [
        DocumentStates(
            torch.randn(length, width, generator=generator),
            torch.randint(2, VOCABULARY, (length,), generator=generator),
        )
        for length in lengths
    ]


def query_of(model: MiceForSequenceClassification, tokens: int, seed: int = 1) -> EncodedTexts:
    """One query of random tokens that starts with [CLS]."""
    ids = torch.randint(4, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(seed))
    ids[0, 0] = model.config.cls_token_id
    with torch.no_grad():
        return model.encode_queries(ids, torch.ones_like(ids, dtype=torch.bool))


@torch.no_grad()
def obvious(model: MiceForSequenceClassification, query: EncodedTexts, documents: list[DocumentStates]) -> Tensor:
    """Every pair alone through the reference: no padding, no sharing."""
    scores = []
    for document in documents:
        one = EncodedTexts.pad([document], torch.float32, torch.device("cpu"))
        scores.append(model.score(query, one)[0, 0])
    return torch.stack(scores)


CHOICES: dict[str, list[Any]] = {
    "interaction_order": ["cross_first", "self_first"],
    "cls_attends_document": [True, False],
    "query_attends_cls": [True, False],
    "exact_match": [True, False],
    "max_sim_residual": [True, False],
    "pooled_residual": [True, False],
    "interaction_hidden_size": [None, 16],
}


@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "projected"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_configuration_scores_as_the_obvious_path(
    absorbed: bool, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interaction_mice, "absorbing_pays", lambda *_: absorbed)
    for place, values in enumerate(itertools.product(*CHOICES.values())):
        fields = dict(zip(CHOICES, values, strict=True))
        model = build(interaction_layers=2 + place % 2, pooling=pooling, **fields)
        query = query_of(model, 1 + place % 9)
        documents = documents_of(model, [1, 7, 3, 20, 2], seed=place)
        fast = score_documents(model, query, documents, chunk_documents=2)
        torch.testing.assert_close(fast, obvious(model, query, documents), rtol=1e-6, atol=TOLERANCE, msg=str(fields))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40)
    | st.lists(st.integers(1, 512), min_size=1, max_size=6),
    tokens=st.integers(1, 64),
    order=st.sampled_from(["cross_first", "self_first"]),
    chunk=st.integers(1, 64),
)
def test_ragged_documents_score_as_the_obvious_path(lengths: list[int], tokens: int, order: str, chunk: int) -> None:
    model = build(interaction_layers=2, interaction_order=order, pooled_residual=True)
    query, documents = query_of(model, tokens), documents_of(model, lengths)
    fast = score_documents(model, query, documents, chunk)
    torch.testing.assert_close(fast, obvious(model, query, documents), rtol=1e-6, atol=TOLERANCE)


def test_six_hundred_documents_in_any_order_and_company_score_the_same() -> None:
    model = build(interaction_layers=2, exact_match=True)
    query = query_of(model, 12)
    documents = documents_of(model, [1 + (37 * place) % 90 for place in range(600)])
    scores = score_documents(model, query, documents)
    backwards = score_documents(model, query, documents[::-1], chunk_documents=17).flip(0)
    torch.testing.assert_close(scores, backwards, rtol=1e-6, atol=TOLERANCE)
    few = [0, 299, 599]
    torch.testing.assert_close(
        scores[few], obvious(model, query, [documents[i] for i in few]), rtol=1e-6, atol=TOLERANCE
    )


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "int4"])
def test_packed_states_score_as_their_decoded_documents(codec: str) -> None:
    model = build(interaction_layers=3)
    query, documents = query_of(model, 8), documents_of(model, [5, 30, 1, 12, 44])
    packed = PackedStates.from_documents(documents, codec)
    decoded = [packed.document(place) for place in range(len(documents))]
    fast = score_documents(model, query, packed, chunk_documents=2)
    torch.testing.assert_close(fast, obvious(model, query, decoded), rtol=1e-6, atol=TOLERANCE)


def test_half_precision_states_are_computed_in_float32() -> None:
    model = build(interaction_layers=2)
    query, documents = query_of(model, 8), documents_of(model, [5, 30, 1])
    half = [DocumentStates(document.states.half(), document.input_ids) for document in documents]
    exact = [DocumentStates(document.states.half().float(), document.input_ids) for document in documents]
    torch.testing.assert_close(
        score_documents(model, query, half), obvious(model, query, exact), rtol=1e-6, atol=TOLERANCE
    )


def test_mixed_precision_changes_no_score_of_states_that_are_there() -> None:
    model = build(interaction_layers=2, max_sim_residual=True)
    query, documents = query_of(model, 8), documents_of(model, [5, 30, 1])
    expected = score_documents(model, query, documents)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(score_documents(model, query, documents), expected, rtol=0.0, atol=0.0)


def test_absorbing_pays_below_the_measured_crossover_of_minilm() -> None:
    model = MiceConfig(interaction_layers=3)
    model.backbone_config.hidden_size, model.backbone_config.num_attention_heads = 384, 12
    pays: Callable[[int], bool] = lambda tokens: absorbing_pays(model, tokens, 75)  # noqa: E731
    assert pays(9)
    assert not pays(64)
    crossover = next(tokens for tokens in range(1, 65) if not pays(tokens))
    assert 15 <= crossover <= 32


def test_padding_of_the_query_is_dropped() -> None:
    model = build(interaction_layers=2, pooled_residual=True)
    query, documents = query_of(model, 6), documents_of(model, [5, 9])
    padded = EncodedTexts(
        torch.nn.functional.pad(query.states, (0, 0, 0, 3), value=7.0),
        torch.nn.functional.pad(query.attention_mask, (0, 3)),
        torch.nn.functional.pad(query.input_ids, (0, 3)),
    )
    torch.testing.assert_close(score_documents(model, padded, documents), score_documents(model, query, documents))


def test_no_documents_and_not_finite_states() -> None:
    model = build(interaction_layers=2)
    query, documents = query_of(model, 6), documents_of(model, [5, 9, 4])
    assert score_documents(model, query, []).shape == (0,)
    documents[1].states[3] = float("nan")
    with pytest.raises(ValueError, match=r"not finite in rows \[1\]"):
        score_documents(model, query, documents)
