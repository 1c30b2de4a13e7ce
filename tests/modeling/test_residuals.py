"""The MaxSim residual against its definition, written out token by token."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.interaction_mice import score_documents
from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification

CLS, SEP = 3, 4


def build(**fields: Any) -> MiceForSequenceClassification:
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    config = MiceConfig(
        backbone, interaction_layers=1, cls_token_id=CLS, sep_token_id=SEP, max_sim_residual=True, **fields
    )
    model = MiceForSequenceClassification(config).eval()
    model.max_sim_residual.log_weights.data.normal_()
    return model


def encode(model: MiceForSequenceClassification, side: str, *texts: list[int]) -> EncodedTexts:
    rows = [torch.tensor([CLS, *text, SEP]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    with torch.no_grad():
        return (model.encode_queries if side == "query" else model.encode_documents)(ids, mask)


def by_hand(
    model: MiceForSequenceClassification, ids: list[int], rows: Tensor, others: list[int], tokens: Tensor
) -> float:
    """The residual's formula, over the query's tokens between [CLS] and [SEP] and all of the document's."""
    residual, own = model.max_sim_residual, range(1, len(ids) - 1)

    def cosine(place: int, other: int) -> float:
        return float(torch.dot(rows[place], tokens[other]) / (rows[place].norm() * tokens[other].norm()))

    total = weight = 0.0
    for place in own:
        found = [
            cosine(place, other) + (float(residual.match_bonus) if ids[place] == others[other] else 0.0)
            for other in range(len(others))
        ]
        here = math.exp(float(residual.log_weights[ids[place]]))
        total += here * max(found)
        weight += here
    mean = sum(max(cosine(place, other) for place in own) for other in range(len(others))) / len(others)
    return math.exp(float(residual.log_scale)) * (total / weight + float(residual.document_share) * mean)


@torch.no_grad()
@pytest.mark.parametrize("bonus", [0.1, 1.5, -3.0])  # a small one, one that decides, one below any cosine
def test_it_adds_the_greatest_cosines_of_both_sides_whatever_the_padding(bonus: float) -> None:
    model = build()
    model.max_sim_residual.match_bonus.data.fill_(bonus)
    model.max_sim_residual.document_share.data.fill_(-0.7)
    queries = encode(model, "query", [10, 11, 12], [20])
    documents = encode(model, "document", [30, 11], [40, 41, 42, 43, 44])
    with_it = model.score(queries, documents)
    residual, model.max_sim_residual = model.max_sim_residual, None
    without = model.score(queries, documents)
    model.max_sim_residual = residual
    for row in range(2):
        ids = queries.input_ids[row][queries.attention_mask[row]].tolist()
        mask = documents.attention_mask[row]
        expected = by_hand(
            model, ids, queries.states[row], documents.input_ids[row][mask].tolist(), documents.states[row][mask]
        )
        assert float(with_it[row] - without[row]) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"interaction_hidden_size": 8}, {"document_states": "per_layer"}])
def test_a_query_without_tokens_of_its_own_gets_nothing(fields: dict[str, Any]) -> None:
    model = build(**fields)
    query = encode(model, "query", [])
    documents = encode(model, "document", [30, 11])
    weights = model.max_sim_residual.weigh(query)
    assert weights.tolist() == [[0.0, 0.0]]
    before = model.score(query, documents)
    model.max_sim_residual.log_scale.data += 5.0
    torch.testing.assert_close(model.score(query, documents), before)
    torch.testing.assert_close(score_documents(model, query, documents.unpad()), before[:, 0], rtol=1e-6, atol=1e-5)


def test_its_weights_learn() -> None:
    model = build()
    model.score(encode(model, "query", [10, 11]), encode(model, "document", [30, 11])).sum().backward()
    gradient = model.max_sim_residual.log_weights.grad
    assert set(gradient.nonzero().flatten().tolist()) == {10, 11}
    for name in ("log_scale", "match_bonus", "document_share"):
        assert getattr(model.max_sim_residual, name).grad.abs() > 0, name
