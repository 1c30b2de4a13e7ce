"""A small model and a few ragged pairs, which the tests of the model share."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification

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
EVERYTHING = {"exact_match": True, "pooled_residual": True, "interaction_layers": 2}


def build_model(
    shake: Callable[..., None], backbone: dict[str, Any] | None = None, attention: str = "sdpa", **fields: Any
) -> MiceForSequenceClassification:
    """A small model in evaluation mode; all its parameters are off their starts."""
    torch.manual_seed(0)
    sizes = {"query_max_length": 12, "document_max_length": 24, "cls_token_id": CLS, "sep_token_id": SEP}
    config = MiceConfig(backbone_config=BertConfig(**BACKBONE | (backbone or {})), **sizes | fields)
    config._attn_implementation = attention
    model = MiceForSequenceClassification(config).eval()
    shake(model, scale=0.2)
    if config.pooled_residual:  # scores near 1, where float32 has seven digits behind the point
        model.pooled_residual_log_scale.data.fill_(math.log(2.0))
    return model


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
