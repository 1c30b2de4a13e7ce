"""The model: what it computes, against an independent re-implementation, and what it refuses."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel, DistilBertConfig

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import DocumentStates, EncodedTexts, MiceForSequenceClassification
from mice_st.modeling.pairs import split_pairs

CLS, SEP, VOCABULARY = 2, 3, 60
BACKBONE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Ragged; documents repeat tokens of their query (10, 11, 12), and one query has none of them.
PAIRS = [
    ([10, 11, 12, 13], [20, 10, 21, 10, 22, 12, 23]),
    ([14], [24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34]),
    ([11, 15, 16, 11, 17, 18, 19], [11]),
    ([10, 12], [12, 12, 10, 35, 36]),
]


@pytest.fixture
def build(shake: Callable[..., None]) -> Callable[..., MiceForSequenceClassification]:
    """Builds a small model in evaluation mode; all its parameters are off their starts."""

    def build(
        backbone: dict[str, Any] | None = None, attention: str = "sdpa", **fields: Any
    ) -> MiceForSequenceClassification:
        torch.manual_seed(0)
        sizes = {"query_max_length": 12, "document_max_length": 24, "cls_token_id": CLS, "sep_token_id": SEP}
        config = MiceConfig(backbone_config=BertConfig(**BACKBONE | (backbone or {})), **sizes | fields)
        config._attn_implementation = attention
        model = MiceForSequenceClassification(config).eval()
        shake(model, scale=0.2)
        if config.pooled_residual:  # scores near 1, where float32 has seven digits behind the point
            model.pooled_residual_log_scale.data.fill_(math.log(2.0))
        return model

    return build


def layers_of(model: MiceForSequenceClassification) -> list[Any]:
    """Its interaction layers; Any, because torch types every attribute of a module as a tensor or a module."""
    return list(model.interaction)


def frame(tokens: list[int]) -> list[int]:
    return [CLS, *tokens, SEP]


def pad(rows: list[list[int]], length: int = 0, filler: int = 0, left: bool = False) -> tuple[Tensor, Tensor]:
    """Padded ids and their mask."""
    length = max(length, *(len(row) for row in rows))
    padding = [[filler] * (length - len(row)) for row in rows]
    ids = [fill + row if left else row + fill for row, fill in zip(rows, padding, strict=True)]
    lone = [[0] * len(fill) + [1] * len(row) for row, fill in zip(rows, padding, strict=True)]
    return torch.tensor(ids), torch.tensor(lone if left else [mask[::-1] for mask in lone])


def pair_rows() -> list[list[int]]:
    return [[CLS, *query, SEP, *document, SEP] for query, document in PAIRS]


def encode_pairs(model: MiceForSequenceClassification, extra: int = 0) -> tuple[EncodedTexts, EncodedTexts]:
    """Queries and documents of PAIRS, with ``extra`` more tokens of padding."""
    queries = pad([frame(query) for query, _ in PAIRS], length=9 + extra)
    documents = pad([frame(document) for _, document in PAIRS], length=13 + extra)
    return model.encode_queries(*queries), model.encode_documents(*documents)


@torch.no_grad()
def score_pairs(model: MiceForSequenceClassification) -> Tensor:
    return model.score(*encode_pairs(model)).squeeze(-1)


# --- an independent implementation, with loops, in float64 ---


class Reference:
    """The paper's description, one pair at a time, without padding or masks."""

    def __init__(self, model: MiceForSequenceClassification) -> None:
        self.config = model.config
        self.weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
        self.backbone = BertModel(model.config.backbone_config, add_pooling_layer=False).double().eval()
        self.backbone.load_state_dict({name: tensor.double() for name, tensor in model.backbone.state_dict().items()})

    def linear(self, name: str, rows: np.ndarray) -> np.ndarray:
        product = rows @ self.weights[f"{name}.weight"].T
        return product + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else product

    def norm(self, name: str, rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.backbone_config.layer_norm_eps)
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attend(
        self, name: str, rows: np.ndarray, states: np.ndarray, may_read: Callable[[int, int], bool]
    ) -> np.ndarray:
        query, key, value = (
            self.linear(f"{name}.{part}", x)
            for part, x in zip(("query", "key", "value"), (rows, states, states), strict=True)
        )
        heads = self.config.backbone_config.num_attention_heads
        width = rows.shape[1] // heads
        context = np.zeros_like(rows)
        for head, row in itertools.product(range(heads), range(len(rows))):
            columns = slice(head * width, (head + 1) * width)
            read = [place for place in range(len(states)) if may_read(row, place)]
            weights = np.exp(key[read, columns] @ query[row, columns] / math.sqrt(width))
            if read:
                context[row, columns] = weights / weights.sum() @ value[read, columns]
        return self.norm(f"{name}.norm", rows + self.linear(f"{name}.output", context))

    def read_document(
        self, name: str, rows: np.ndarray, states: np.ndarray, ids: tuple[list[int], list[int]]
    ) -> np.ndarray:
        if self.config.exact_match:
            rows = rows.copy()
            for row, token in enumerate(ids[0]):
                same = [states[place] for place, other in enumerate(ids[1]) if other == token]
                if same and token not in (CLS, SEP):
                    mean = sum(same) / len(same)
                    rows[row] += self.linear(
                        f"{name}.exact_match.output", self.linear(f"{name}.exact_match.value", mean)
                    )
        sees = self.config.cls_attends_document
        return self.attend(f"{name}.cross_attention", rows, states, lambda row, _: sees or row != 0)

    def read_query(self, name: str, rows: np.ndarray) -> np.ndarray:
        sees = self.config.query_attends_cls
        return self.attend(f"{name}.self_attention", rows, rows, lambda row, place: sees or row == 0 or place != 0)

    def feed_forward(self, name: str, rows: np.ndarray) -> np.ndarray:
        inner = self.linear(f"{name}.intermediate", rows)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))  # GELU
        return self.norm(f"{name}.norm", rows + self.linear(f"{name}.output", inner))

    def contextualise(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self.backbone(torch.tensor([ids])).last_hidden_state[0].numpy()

    def score(self, query: list[int], document: list[int]) -> float:
        ids = (frame(query), frame(document))
        query_states, document_states = map(self.contextualise, ids)
        rows = query_states
        for layer in range(self.config.interaction_layers):
            name = f"interaction.{layer}"
            if self.config.interaction_order == "cross_first":
                rows = self.read_query(name, self.read_document(name, rows, document_states, ids))
            else:
                rows = self.read_document(name, self.read_query(name, rows), document_states, ids)
            rows = self.feed_forward(f"{name}.feed_forward", rows)
        row = np.tanh(self.linear("pooler", rows[0])) if self.config.pooler else rows[0]
        score = self.linear("classifier", row).item()
        if self.config.pooled_residual:
            first, second = (
                states[0] if self.config.pooling == "cls" else states.mean(0)
                for states in (query_states, document_states)
            )
            cosine = first @ second / math.sqrt(first @ first) / math.sqrt(second @ second)
            score += math.exp(self.weights["pooled_residual_log_scale"].item()) * cosine
        return score


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("residual", [None, "mean", "cls"])
@pytest.mark.parametrize("exact_match", [False, True])
@pytest.mark.parametrize("query_attends_cls", [False, True])
@pytest.mark.parametrize("cls_attends_document", [True, False])
@pytest.mark.parametrize("order", ["cross_first", "self_first"])
def test_score_equals_a_loop_over_heads_and_tokens(
    build: Callable[..., MiceForSequenceClassification],
    order: str,
    cls_attends_document: bool,
    query_attends_cls: bool,
    exact_match: bool,
    residual: str | None,
    pooler: bool,
) -> None:
    model = build(
        interaction_layers=3,
        interaction_order=order,
        cls_attends_document=cls_attends_document,
        query_attends_cls=query_attends_cls,
        exact_match=exact_match,
        pooled_residual=residual is not None,
        pooling=residual or "mean",
        pooler=pooler,
    )
    reference = Reference(model)
    expected = [reference.score(query, document) for query, document in PAIRS]
    assert np.ptp(expected) > 0.05  # the pairs differ, so that agreement says something
    np.testing.assert_allclose(score_pairs(model).numpy(), expected, atol=1e-5, rtol=0)


CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"interaction_order": "cross_first"}, {"interaction_order": "self_first"}),
    ({"query_attends_cls": False}, {"query_attends_cls": True}),
    ({"cls_attends_document": True}, {"cls_attends_document": False}),
    ({"pooler": True}, {"pooler": False}),
]


@pytest.mark.parametrize(("one", "other"), CHOICES)
def test_every_choice_changes_the_score(
    build: Callable[..., MiceForSequenceClassification], one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = build(interaction_layers=2, **one), build(interaction_layers=2, **other)
    second.load_state_dict(first.state_dict(), strict=False)
    assert (score_pairs(first) - score_pairs(second)).abs().max() > 1e-3


# --- contextualisation ---


def test_contextualisation_is_the_backbone_up_to_its_layer(
    build: Callable[..., MiceForSequenceClassification], shake: Callable[..., None]
) -> None:
    full = BertModel(BertConfig(**BACKBONE | {"num_hidden_layers": 5})).eval()
    shake(full, scale=0.2)
    ids, mask = pad([frame(document) for _, document in PAIRS])
    with torch.no_grad():
        hidden_states = full(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for layers in (1, 3, 5):
            model = build(backbone={"num_hidden_layers": layers})
            names = model.backbone.state_dict().keys()
            model.backbone.load_state_dict({name: full.state_dict()[name] for name in names})
            for encode in (model.encode_queries, model.encode_documents):
                encoded = encode(ids, mask)
                expected = hidden_states[layers]
                torch.testing.assert_close(encoded.states[mask.bool()], expected[mask.bool()], atol=1e-6, rtol=0)
                assert torch.equal(encoded.attention_mask, mask.bool())
                assert torch.equal(encoded.input_ids, ids)


@torch.no_grad()
def test_documents_never_see_a_query(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(exact_match=True, pooled_residual=True)
    _, document = PAIRS[0]
    rows = [[CLS, *query, SEP, *document, SEP] for query, _ in PAIRS]
    _, documents = split_pairs(model.config, *pad(rows))
    states = model.encode_documents(*documents).states
    assert all(torch.equal(states[0], other) for other in states[1:])
    read: list[Tensor] = []
    for layer in layers_of(model):
        layer.cross_attention.key.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].clone()))
    model(*pad(rows))
    assert len(read) == len(model.interaction)
    assert all(torch.equal(layer_states, states) for layer_states in read)


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


# --- batches, padding, kernels, precisions ---

EVERYTHING = {"exact_match": True, "pooled_residual": True, "interaction_layers": 2}


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


def test_unpad_and_pad_are_inverse(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    _, documents = encode_pairs(model, extra=3)
    stored = documents.unpad()
    assert [len(document) for document in stored] == [len(document) + 2 for _, document in PAIRS]
    again = EncodedTexts.pad(stored, torch.float32, torch.device("cpu"))
    assert torch.equal(again.states[again.attention_mask], documents.states[documents.attention_mask])
    assert again.input_ids[again.attention_mask].tolist() == documents.input_ids[documents.attention_mask].tolist()


@pytest.mark.parametrize(
    ("states", "ids"),
    [(torch.zeros(3), torch.zeros(3)), (torch.zeros(3, 4), torch.zeros(2)), (torch.zeros(0, 4), torch.zeros(0))],
)
def test_document_states_refuse_other_shapes(states: Tensor, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="n_tokens"):
        DocumentStates(states, ids.long())


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
    torch.testing.assert_close(half.head(rows), exact, atol=1e-6, rtol=0)
    assert not torch.equal(exact, exact.to(dtype).float())  # a head in half precision would have rounded
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.head(rows.float()).dtype == torch.float32


def test_a_frozen_backbone_stays_in_evaluation_mode(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(backbone={"hidden_dropout_prob": 0.5})
    _, documents = encode_pairs(model)
    model.train()
    assert not torch.allclose(encode_pairs(model)[1].states, documents.states)  # not frozen: dropout is on
    model.backbone.requires_grad_(False)
    model.train()
    assert model.training
    assert model.interaction[0].training
    torch.testing.assert_close(encode_pairs(model)[1].states, documents.states)
    model.backbone.requires_grad_(True)
    model.train()
    assert model.backbone.training


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


# --- forward: pair encodings ---


@torch.no_grad()
def test_forward_splits_pairs_and_scores_them(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(**EVERYTHING)
    expected = score_pairs(model)
    ids, mask = pad(pair_rows())
    logits = model(ids, mask).logits
    assert logits.shape == (len(PAIRS), 1)
    torch.testing.assert_close(logits.squeeze(-1), expected, atol=1e-6, rtol=0)
    types = torch.tensor([[0] * (len(q) + 2) + [1] * (ids.shape[1] - len(q) - 2) for q, _ in PAIRS])
    assert torch.equal(model(ids, mask, token_type_ids=types).logits, logits)
    left = model(*pad(pair_rows(), length=25, left=True)).logits
    torch.testing.assert_close(left, logits, atol=1e-6, rtol=0)
    row = torch.tensor(pair_rows()[:1])
    torch.testing.assert_close(model(row).logits, logits[:1], atol=1e-6, rtol=0)  # no mask: all tokens


def test_forward_with_labels(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    labels = torch.tensor([1, 0, 2, 0])
    output = model(*pad(pair_rows()), labels=labels)
    mean = sum((row[0] - label) ** 2 for row, label in zip(output.logits.tolist(), labels.tolist(), strict=True)) / 4
    assert output.loss.item() == pytest.approx(mean, rel=1e-5)
    loss, logits = model(*pad(pair_rows()), labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert model(*pad(pair_rows())).loss is None


@torch.no_grad()
def test_a_further_separator_belongs_to_the_document(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    (query, query_mask), (document, _) = split_pairs(
        model.config, torch.tensor([[CLS, 10, SEP, 11, SEP, 12, SEP]]), None
    )
    assert query.tolist() == [[CLS, 10, SEP]]
    assert query_mask.tolist() == [[True] * 3]
    assert document.tolist() == [[CLS, 11, SEP, 12, SEP]]


@pytest.mark.parametrize(
    "row",
    [
        [10, 11, SEP, 12, SEP],  # does not start with [CLS]
        [CLS, 10, 11, 12, SEP],  # one [SEP]
        [CLS, 10, SEP, 11, 12],  # does not end with [SEP]
        [CLS, 10, SEP, 11, SEP, 12],  # goes on after the last [SEP]
        [CLS, 10, 11, 12, 13],  # none
    ],
)
def test_a_row_that_is_no_pair_is_named(build: Callable[..., MiceForSequenceClassification], row: list[int]) -> None:
    rows = [[CLS, 10, SEP, 11, SEP], row]
    with pytest.raises(ValueError, match=r"row 1 is not of the form \[CLS\] query \[SEP\] document \[SEP\]"):
        build()(*pad(rows))


@torch.no_grad()
def test_long_sides_are_cut_each_at_its_own_length(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(query_max_length=8, document_max_length=10)
    query, document = list(range(10, 30)), list(range(30, 58))
    logits = model(torch.tensor([[CLS, *query, SEP, *document, SEP]])).logits
    short = model(torch.tensor([[CLS, *query[:6], SEP, *document[:8], SEP]])).logits
    assert torch.equal(logits, short)
    less = model(torch.tensor([[CLS, *query[:5], SEP, *document[:8], SEP]])).logits
    assert not torch.allclose(less, short)


def test_ids_beyond_the_vocabulary_are_refused(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    for wrong in (VOCABULARY, -1):
        with pytest.raises(ValueError, match=rf"input_ids: .*{wrong}.*vocabulary of {VOCABULARY}.*tokenizer"):
            model(torch.tensor([[CLS, 10, SEP, wrong, SEP]]))


# --- configurations ---

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    (
        {"backbone_config": DistilBertConfig()},
        "backbone_config: a backbone of type 'distilbert' is not one of .*'bert'.*'electra'",
    ),
    ({"num_labels": 2}, "num_labels: .* got 2"),
    ({"backbone_config": BertConfig(**BACKBONE | {"num_hidden_layers": 0})}, "contextualization_layers: at least 1"),
    ({"interaction_order": "cross"}, "interaction_order: 'cross'"),
    ({"pooling": "max"}, "pooling: 'max'"),
    ({"interaction_layers": 0}, "interaction_layers: at least 1 .* got 0"),
    ({"interaction_layers": 1, "cls_attends_document": False}, "interaction_layers: at least 2 .* got 1"),
    ({"query_max_length": 2}, "query_max_length: .* got 2"),
    ({"query_max_length": 41}, "query_max_length: .* 40 positions, got 41"),
    ({"document_max_length": 2}, "document_max_length: .* got 2"),
    ({"document_max_length": 41}, "document_max_length: .* 40 positions, got 41"),
    ({"cls_token_id": VOCABULARY}, f"cls_token_id: {VOCABULARY} .* vocabulary of {VOCABULARY}"),
    ({"sep_token_id": -1}, "sep_token_id: -1 "),
]
POSSIBLE = {
    "query_max_length": 3,
    "document_max_length": 40,
    "cls_token_id": 0,
    "sep_token_id": VOCABULARY - 1,
    "interaction_layers": 1,
}


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_an_impossible_configuration_names_its_field(fields: dict[str, Any], message: str) -> None:
    MiceConfig(**{"backbone_config": BertConfig(**BACKBONE)} | POSSIBLE)
    with pytest.raises(ValueError, match=message):
        MiceConfig(**{"backbone_config": BertConfig(**BACKBONE)} | POSSIBLE | fields)


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "interaction_layers": 4,
        "interaction_order": "self_first",
        "query_attends_cls": True,
        "cls_attends_document": False,
        "pooler": False,
        "pooled_residual": True,
        "pooling": "cls",
        "exact_match": True,
        "query_max_length": 7,
        "document_max_length": 9,
        "cls_token_id": 5,
        "sep_token_id": 6,
    }
    MiceConfig(BertConfig(**BACKBONE), **fields).save_pretrained(tmp_path)
    loaded = MiceConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert isinstance(loaded.backbone_config, BertConfig)
    assert {name: getattr(loaded.backbone_config, name) for name in BACKBONE} == BACKBONE
    assert (loaded.contextualization_layers, loaded.hidden_size, loaded.vocab_size) == (2, 16, VOCABULARY)


# --- saving and loading ---


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
