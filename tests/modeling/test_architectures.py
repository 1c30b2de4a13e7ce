"""Every option of MiceConfig in random combinations: obvious path = fast path = from stored states = pair encodings."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig

from mice_st.modeling import interaction_mice
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.interaction_mice import score_documents
from mice_st.modeling.layers_mice import DocumentStates, EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.states.packed import PackedStates

CLS, SEP, VOCABULARY = 2, 3, 24  # few ids, so that exact matches are many
BACKBONE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
SIZES: dict[str, Any] = {"query_max_length": 16, "document_max_length": 32, "cls_token_id": CLS, "sep_token_id": SEP}
OPTIONS: dict[str, list[Any]] = {
    "document_contextualization_layers": [None, None, 1, 2],
    "interaction_layers": [1, 2, 3],
    "interaction_hidden_size": [None, None, 16],
    "interaction_order": ["cross_first", "self_first"],
    "interaction_attention": ["split", "joint"],
    "document_states": ["frozen", "per_layer"],
    "query_self_attention": [True, True, True, False],
    "global_cls": [False, True],
    "query_attends_cls": [False, True],
    "cls_attends_document": [True, False],
    "mask3_frame": [False, True],
    "pooler": [True, False],
    "pooled_residual": [False, True],
    "pooling": ["mean", "cls"],
    "exact_match": [False, True],
    "lexical_bias": [False, True],
    "max_sim_residual": [False, True],
}


def draw_config(seed: int) -> MiceConfig:
    """A random configuration among the possible ones."""
    generator = random.Random(seed)
    for _ in range(1000):
        fields = {name: generator.choice(values) for name, values in OPTIONS.items()}
        backbone = BertConfig(**BACKBONE, num_hidden_layers=generator.choice([1, 2]))
        try:
            return MiceConfig(backbone, **SIZES, **fields)
        except ValueError:  # choices that exclude each other
            continue
    raise AssertionError("no configuration is possible")


def build(config: MiceConfig, shake: Callable[..., None]) -> MiceForSequenceClassification:
    torch.manual_seed(0)
    model = MiceForSequenceClassification(config).eval()
    shake(model, scale=0.2)
    if config.pooled_residual:  # scores near 1, where float32 has seven digits behind the point
        model.pooled_residual_log_scale.data.fill_(0.0)
    if model.max_sim_residual is not None:
        model.max_sim_residual.log_scale.data.fill_(0.0)
    return model


def texts_of(model: MiceForSequenceClassification, side: str, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded random texts with their special tokens, of these many tokens of their own, and the mask."""
    generator = torch.Generator().manual_seed(len(lengths))
    before, after = model.config.special_tokens(side)
    rows = [
        torch.tensor([*before, *torch.randint(4, VOCABULARY, (length,), generator=generator).tolist(), *after])
        for length in lengths
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)


DOCUMENTS = [0, 7, 3, 20, 1]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(40))
def test_every_way_to_score_agrees(seed: int, shake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(draw_config(seed), shake)
    config = model.config
    config._attn_implementation = "sdpa" if seed % 4 else "eager"
    queries = model.encode_queries(*texts_of(model, "query", [6, seed % 9]))
    batch = model.encode_documents(*texts_of(model, "document", DOCUMENTS))
    assert batch.states.shape[-1] == config.state_width
    documents = batch.unpad()
    fast = []
    for place in range(2):
        query = queries.select(torch.tensor([place]))
        expected = model.score(queries.select(torch.full((len(documents),), place)), batch).squeeze(-1)
        assert expected.isfinite().all()
        # The document is read, if the query has tokens; DOCUMENTS[0] has none, and a score of its own.
        assert place or expected[1:].std() > 1e-4, config.name
        assert expected[0] == config.empty_document_score
        # One pair alone, without padding.
        tokens = int(query.attention_mask.sum())
        alone = EncodedTexts(*(field[:, :tokens] for field in query))
        one = model.score(alone, EncodedTexts.pad(documents[:1], torch.float32, torch.device("cpu")))
        torch.testing.assert_close(one[0], expected[:1], atol=1e-5, rtol=1e-6)
        for absorbed in (True, False):
            monkeypatch.setattr(interaction_mice, "absorbing_pays", lambda *_, absorbed=absorbed: absorbed)
            fast.append((score_documents(model, query, documents, 2), expected))
        packed = PackedStates.from_documents(documents, "fp32")
        fast.append((score_documents(model, query, packed, 3), expected))
    for scores, expected in fast:
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-6, msg=lambda text: f"{config.name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_pair_encodings_score_as_their_sides(seed: int, shake: Callable[..., None]) -> None:
    model = build(draw_config(seed), shake)
    query, document = [5, 6, 7], [8, 5, 9, 10]
    pair = model(torch.tensor([[CLS, *query, SEP, *document, SEP]])).logits
    (before, after) = model.config.special_tokens("document")
    sides = [torch.tensor([[CLS, *query, SEP]]), torch.tensor([[*before, *document, *after]])]
    queries, documents = (
        encode(ids, torch.ones_like(ids))
        for encode, ids in zip((model.encode_queries, model.encode_documents), sides, strict=True)
    )
    torch.testing.assert_close(pair, model.score(queries, documents), atol=1e-5, rtol=1e-6)


def test_states_of_another_width_are_refused(shake: Callable[..., None]) -> None:
    model = build(
        MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=1), document_states="per_layer", **SIZES),
        shake,
    )
    queries = model.encode_queries(*texts_of(model, "query", [3]))
    narrow = DocumentStates(torch.randn(4, 32), torch.tensor([CLS, 5, 6, SEP]))
    with pytest.raises(ValueError, match="document 0: states of 32 values a token, this model reads 96"):
        score_documents(model, queries, [narrow])


@pytest.mark.parametrize("seed", range(16))
def test_every_parameter_is_trained(seed: int, shake: Callable[..., None]) -> None:
    """Parallel training waits for the gradient of every parameter: one that the score does not use would stop it."""
    model = build(draw_config(seed), shake).train()
    queries = model.encode_queries(*texts_of(model, "query", [6, 4]))
    documents = model.encode_documents(*texts_of(model, "document", [7, 3]))
    model.score(queries, documents).sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == [], model.config.name
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)


NAMES: list[tuple[dict[str, Any], str]] = [
    ({}, "mice-l4+3"),
    (
        {"document_contextualization_layers": 6, "interaction_order": "self_first", "exact_match": True},
        "mice-l4-d6+3-self-lex",
    ),
    ({"document_states": "per_layer", "interaction_attention": "joint"}, "mice-l4+3-joint-perlayer"),
    ({"interaction_hidden_size": 16, "mask3_frame": True}, "mice-l4+3-mask3-w16"),
]


@pytest.mark.parametrize(("fields", "name"), NAMES)
def test_a_name_says_what_the_model_is(fields: dict[str, Any], name: str) -> None:
    assert MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=4), **SIZES | fields).name == name


def test_every_choice_has_a_name_of_its_own() -> None:
    """One field changed at a time, what it needs beside it."""
    names = set()
    plain: dict[str, Any] = {"interaction_layers": 2, "pooled_residual": True}
    changes = [{name: value} for name, values in OPTIONS.items() for value in dict.fromkeys(values)]
    configs = []
    for change in changes:
        config = MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=2), **SIZES | plain | change)
        configs.append({name: getattr(config, name) for name in OPTIONS})
        names.add(config.name)
    different = {str(config) for config in configs}
    assert len(names) == len(different)


EXCLUDED: list[tuple[dict[str, Any], str]] = [
    ({"interaction_attention": "joint", "interaction_order": "self_first"}, "interaction_order: 'self_first'"),
    ({"interaction_attention": "joint", "query_self_attention": False}, "interaction_attention: 'joint'"),
    ({"document_states": "per_layer", "query_self_attention": False}, "document_states: 'per_layer'"),
    ({"interaction_order": "self_first", "query_self_attention": False}, "interaction_order: 'self_first'"),
    ({"cls_attends_document": False, "query_self_attention": False}, "cls_attends_document: False"),
    ({"query_attends_cls": True, "query_self_attention": False}, "query_attends_cls: True"),
    ({"pooled_residual": True, "pooling": "cls", "mask3_frame": True}, "pooling: 'cls'"),
    ({"interaction_attention": "both"}, "interaction_attention: 'both' is not one of"),
    ({"document_states": "thawed"}, "document_states: 'thawed' is not one of"),
    ({"score_scale": 0.0}, "score_scale: must be positive and finite, got 0.0"),
    ({"score_scale": float("inf")}, "score_scale: must be positive and finite, got inf"),
    ({"empty_document_score": float("nan")}, "empty_document_score: must be finite, got nan"),
    ({"unk_token_id": VOCABULARY}, f"unk_token_id: {VOCABULARY} lies outside the vocabulary"),
    ({"document_contextualization_layers": 0}, "document_contextualization_layers: .* got 0"),
]


@pytest.mark.parametrize(("fields", "message"), EXCLUDED)
def test_choices_that_exclude_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiceConfig(BertConfig(**BACKBONE), **SIZES | fields)


def test_a_learned_cls_takes_the_place_of_the_contextualised_one(shake: Callable[..., None]) -> None:
    model = build(MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=1), global_cls=True, **SIZES), shake)
    queries = model.encode_queries(*texts_of(model, "query", [3, 5]))
    rows = model.replace_cls(queries.states)
    assert torch.equal(rows[:, 0], model.global_cls.expand(2, -1))
    assert torch.equal(rows[:, 1:], queries.states[:, 1:])


@torch.no_grad()
def test_lexical_bias_moves_only_equal_tokens(shake: Callable[..., None]) -> None:
    """With weights far apart, a token that has its equal in the document reads that one alone."""
    model = build(MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=1), lexical_bias=True, **SIZES), shake)
    layer: Any = model.interaction[0]
    layer.lexical_bias.fill_(1e4)
    query, document = [CLS, 5, 6, SEP], [CLS, 7, 5, 8, SEP]
    queries, documents = (
        encode(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
        for encode, ids in ((model.encode_queries, query), (model.encode_documents, document))
    )
    seen: list[torch.Tensor] = []
    layer.cross_attention.output.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0][0]))
    model.score(queries, documents)
    layer.lexical_bias.fill_(0.0)
    model.score(queries, documents)
    biased, plain = seen
    torch.testing.assert_close(biased[1], layer.cross_attention.value(documents.states[0, 2]), atol=1e-5, rtol=0)
    assert not torch.allclose(biased[1], plain[1], atol=1e-3)
    torch.testing.assert_close(biased[[0, 2, 3]], plain[[0, 2, 3]])  # [CLS] and [SEP] have equals, but are no words


MASK3_ON = {
    "query_attends_document_sep": False,
    "contextualization_attends_cls": False,
    "sep_attends_itself_alone": True,
    "document_cls": False,
    "document_token_type": 1,
}
MASK3_OFF = {
    "query_attends_document_sep": True,
    "contextualization_attends_cls": True,
    "sep_attends_itself_alone": False,
    "document_cls": True,
    "document_token_type": 0,
}


@pytest.mark.parametrize(
    ("old", "is_on"), [(MASK3_ON, True), (MASK3_ON | {"document_token_type": 0}, True), (MASK3_OFF, False)]
)
def test_a_config_of_an_earlier_version_is_read(old: dict[str, Any], is_on: bool) -> None:
    written = MiceConfig(BertConfig(**BACKBONE), **SIZES).to_dict()
    written |= old | {"match_residual": False, "interaction_key_value_heads": None}
    config = MiceConfig.from_dict(written)
    assert config.mask3_frame is is_on
    assert not set(config.to_dict()) & {*old, "match_residual", "interaction_key_value_heads"}


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"match_residual": True}, "match_residual: True is of an earlier version"),
        ({"interaction_key_value_heads": 1}, "interaction_key_value_heads: 1 is of an earlier version"),
        ({"document_cls": False}, "document_cls: these fields of an earlier version are one today, mask3_frame"),
        (MASK3_ON | {"document_cls": True}, "query_attends_document_sep, .* mask3_frame"),
    ],
)
def test_what_an_earlier_version_had_and_this_one_lacks_is_refused_by_name(old: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiceConfig.from_dict(MiceConfig(BertConfig(**BACKBONE), **SIZES).to_dict() | old)
