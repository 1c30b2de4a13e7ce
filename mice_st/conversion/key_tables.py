"""Where each tensor of MICE comes from in a checkpoint of each type of backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Origin(NamedTuple):
    """Where a tensor comes from: a module of the source, or one of ``parts`` equal parts of its rows."""

    module: str
    part: int = 0
    parts: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """This part of the module's tensor."""
        return tensor.chunk(self.parts)[self.part]


@dataclass(frozen=True)
class KeyTable:
    """The names of one type of checkpoint.

    Attributes:
        layers: What the names of a checkpoint's layers start with, before the layer's number.
        layer_tensors: Module of an interaction layer -> its origin within a layer of the backbone.
        encoder_head: Module of the head -> its origin in a checkpoint without a classifier.
        cross_encoder_head: Module of the head -> its origin in a checkpoint with one.
        pretrained_with_head: Architectures that keep ``cross_encoder_head`` but its classifier, from their pre-training.
        droppable: Prefixes of what a checkpoint may hold and MICE has no place for: heads of the pre-training.
        lowest_seed: Lowest layer that an interaction layer can copy.
    """

    layers: str
    layer_tensors: dict[str, Origin]
    encoder_head: dict[str, str]
    cross_encoder_head: dict[str, str]
    pretrained_with_head: tuple[str, ...] = ()
    droppable: tuple[str, ...] = field(default=())
    lowest_seed: int = 0


_BERT_LAYER = {
    "self_attention.query": Origin("attention.self.query"),
    "self_attention.key": Origin("attention.self.key"),
    "self_attention.value": Origin("attention.self.value"),
    "self_attention.output": Origin("attention.output.dense"),
    "self_attention.norm": Origin("attention.output.LayerNorm"),
    "feed_forward.intermediate": Origin("intermediate.dense"),
    "feed_forward.output": Origin("output.dense"),
    "feed_forward.norm": Origin("output.LayerNorm"),
}
_CLASSIFICATION_HEAD = {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}
_ROBERTA = KeyTable(
    layers="encoder.layer.",
    layer_tensors=_BERT_LAYER,
    encoder_head={"pooler": "pooler.dense"},
    cross_encoder_head=_CLASSIFICATION_HEAD,
    droppable=("lm_head.", "roberta.pooler."),
)
_MODERNBERT_NORMS = {"final_norm": "final_norm", "pooled_norm": "final_norm"}

# By the ``model_type`` of the backbone's config, as ``BACKBONES`` of the configuration.
KEY_TABLES: dict[str, KeyTable] = {
    "bert": KeyTable(
        layers="encoder.layer.",
        layer_tensors=_BERT_LAYER,
        encoder_head={"pooler": "pooler.dense"},
        cross_encoder_head={"pooler": "pooler.dense", "classifier": "classifier"},
        droppable=("cls.",),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": KeyTable(
        layers="encoder.layer.",
        layer_tensors=_BERT_LAYER,
        encoder_head={},
        cross_encoder_head=_CLASSIFICATION_HEAD,
        droppable=("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
    ),
    "modernbert": KeyTable(
        layers="layers.",
        layer_tensors={
            "attention_norm": Origin("attn_norm"),
            "self_attention.query": Origin("attn.Wqkv", 0, 3),
            "self_attention.key": Origin("attn.Wqkv", 1, 3),
            "self_attention.value": Origin("attn.Wqkv", 2, 3),
            "self_attention.output": Origin("attn.Wo"),
            "feed_forward.norm": Origin("mlp_norm"),
            "feed_forward.intermediate": Origin("mlp.Wi"),
            "feed_forward.output": Origin("mlp.Wo"),
        },
        encoder_head=_MODERNBERT_NORMS,
        cross_encoder_head={
            **_MODERNBERT_NORMS,
            "pooler.dense": "head.dense",
            "pooler.norm": "head.norm",
            "classifier": "classifier",
        },
        # Its prediction head is part of the pre-training, and transformers' own classifiers start from it.
        pretrained_with_head=("ModernBertForMaskedLM",),
        droppable=("decoder.", "head."),
        lowest_seed=1,  # layer 0 reads the embeddings without a norm
    ),
}
