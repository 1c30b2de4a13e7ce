"""Texts on their way to states: the backbone's own layers, never a query, frozen on demand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from mice_st.modeling.layers_mice import DocumentStates, EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification, split_pairs
from tests.modeling.small_model import BACKBONE, CLS, PAIRS, SEP, VOCABULARY, encode_pairs, frame, layers_of, pad


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


def test_ids_beyond_the_vocabulary_are_refused(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    for wrong in (VOCABULARY, -1):
        with pytest.raises(ValueError, match=rf"input_ids: .*{wrong}.*vocabulary of {VOCABULARY}.*tokenizer"):
            model(torch.tensor([[CLS, 10, SEP, wrong, SEP]]))
