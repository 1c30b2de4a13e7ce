"""Every option of MiceConfig in random combinations: obvious path = fast path = from stored states = pair encodings."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig

from mice_st.modeling import interaction
from mice_st.modeling.interaction import project_documents, score_documents
from mice_st.modeling.modeling_mice import DocumentStates, EncodedTexts, MiceConfig, MiceForSequenceClassification
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
    "interaction_key_value_heads": [None, None, 1, 2],
    "query_self_attention": [True, True, True, False],
    "global_cls": [False, True],
    "query_attends_cls": [False, True],
    "cls_attends_document": [True, False],
    "query_attends_document_sep": [True, False],
    "contextualization_attends_cls": [True, False],
    "sep_attends_itself_alone": [False, True],
    "document_cls": [True, False],
    "document_token_type": [0, 1],
    "pooler": [True, False],
    "pooled_residual": [False, True],
    "pooling": ["mean", "cls"],
    "exact_match": [False, True],
    "lexical_bias": [False, True],
    "match_residual": [False, True],
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
        assert place or expected.std() > 1e-4, config.name  # the document is read, if the query has tokens
        # One pair alone, without padding.
        tokens = int(query.attention_mask.sum())
        alone = EncodedTexts(*(field[:, :tokens] for field in query))
        one = model.score(alone, EncodedTexts.pad(documents[:1], torch.float32, torch.device("cpu")))
        torch.testing.assert_close(one[0], expected[:1], atol=1e-5, rtol=1e-6)
        for absorbed in (True, False):
            monkeypatch.setattr(interaction, "absorbing_pays", lambda *_, absorbed=absorbed: absorbed)
            fast.append((score_documents(model, query, documents, 2), expected))
        packed = PackedStates.from_documents(documents, "fp32")
        fast.append((score_documents(model, query, packed, 3), expected))
        fast.append((score_documents(model, query, project_documents(model, documents, torch.float32)), expected))
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
    encoded = [
        encode(ids, torch.ones_like(ids))
        for encode, ids in zip((model.encode_queries, model.encode_documents), sides, strict=True)
    ]
    torch.testing.assert_close(pair, model.score(*encoded), atol=1e-5, rtol=1e-6)


def test_states_of_another_width_are_refused(shake: Callable[..., None]) -> None:
    model = build(
        MiceConfig(BertConfig(**BACKBONE, num_hidden_layers=1), document_states="per_layer", **SIZES),
        shake,
    )
    queries = model.encode_queries(*texts_of(model, "query", [3]))
    narrow = DocumentStates(torch.randn(4, 32), torch.tensor([CLS, 5, 6, SEP]))
    with pytest.raises(ValueError, match="document 0: states of 32 values a token, this model reads 96"):
        score_documents(model, queries, [narrow])
