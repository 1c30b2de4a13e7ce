"""The score of every type of backbone, rebuilt from transformers' own layers and a cross-attention written out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from mice_st import convert
from tests.modeling.backbones import BACKBONES, hidden_states, layers_of, make_tokenizer

BELOW, ABOVE = 1, 3
QUERY = "how many people live in the city of berlin"  # longer than ModernBERT's windows in both directions
DOCUMENT = "the population of berlin was 3520031 people in the city"


class Layer:
    """One layer of the original: its self-attention with feed-forward, and the weights that cross-attention copies."""

    def __init__(self, name: str, original: Any, index: int) -> None:
        self.is_modernbert = BACKBONES[name].model_type == "modernbert"
        self.original = original
        self.layer = layers_of(name, original)[index]
        self.heads = original.config.num_attention_heads

    def read_document(self, rows: Tensor, document: Tensor) -> Tensor:
        """Rows ``(Q, h)`` read the document's hidden states ``(D, h)``: all of them, without positions."""
        if self.is_modernbert:
            attention = self.layer.attn
            query = attention.Wqkv(self.layer.attn_norm(rows)).chunk(3, dim=-1)[0]
            _, key, value = attention.Wqkv(self.layer.attn_norm(document)).chunk(3, dim=-1)
        else:
            attention = self.layer.attention.self
            query, key, value = attention.query(rows), attention.key(document), attention.value(document)
        width = rows.shape[-1] // self.heads
        context = torch.zeros_like(rows)
        for head in range(self.heads):
            columns = slice(head * width, (head + 1) * width)
            for row in range(len(rows)):
                weights = (key[:, columns] @ query[row, columns] / width**0.5).exp()
                context[row, columns] = weights / weights.sum() @ value[:, columns]
        if self.is_modernbert:
            return rows + self.layer.attn.Wo(context)
        return self.layer.attention.output(context, rows)

    def read_itself(self, rows: Tensor) -> Tensor:
        """transformers' own layer on the query's rows ``(Q, h)``."""
        if not self.is_modernbert:
            output = self.layer(rows[None])
            return (output[0] if isinstance(output, tuple) else output)[0]
        places = torch.arange(len(rows))
        kind = self.layer.attention_type
        near = (places[:, None] - places).abs() <= self.original.config.local_attention // 2
        mask = torch.where(near, 0.0, -torch.inf)[None, None] if kind == "sliding_attention" else None
        positions = self.original.model.rotary_emb(rows[None], places[None], kind)
        output = self.layer(rows[None], attention_mask=mask, position_embeddings=positions)
        return (output[0] if isinstance(output, tuple) else output)[0]


def head_of(name: str, original: Any, rows: Tensor) -> Tensor:
    """The original's head on the rows ``(Q, h)`` of one query after the last layer."""
    config = original.config
    if BACKBONES[name].model_type == "modernbert":
        rows = original.model.final_norm(rows)
        pooled = rows[0] if config.classifier_pooling == "cls" else rows.mean(0)
        return original.classifier(original.head(pooled))
    if name == "bert":
        return original.classifier(original.bert.pooler(rows[None]))[0]
    return original.classifier(rows[None])[0]


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_the_score_is_that_of_transformers_layers_and_a_document_read_before_each(
    backbone_folders: dict[str, Path], name: str
) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(backbone_folders[name]).eval()
    model, _ = convert(backbone_folders[name], BELOW, ABOVE, query_attends_cls=True)
    tokenizer = make_tokenizer(name)
    sides = [torch.tensor([tokenizer(text)["input_ids"]]) for text in (QUERY, DOCUMENT)]
    rows, document = (hidden_states(name, original, ids, torch.ones_like(ids))[BELOW][0] for ids in sides)
    for index in range(BELOW, BELOW + ABOVE):
        layer = Layer(name, original, index)
        rows = layer.read_itself(layer.read_document(rows, document))
    expected = head_of(name, original, rows)
    assert expected.abs().max() > 1e-2
    score = torch.tensor(model.predict([(QUERY, DOCUMENT)]))
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)
    (encoded,) = model.encode_documents([DOCUMENT])
    fast = torch.tensor([entry["score"] for entry in model.rank(QUERY, [encoded] * 5)])
    torch.testing.assert_close(fast, expected.expand(5), atol=1e-5, rtol=0)
