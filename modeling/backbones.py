"""What differs between backbones, in one class each: BERT, RoBERTa and XLM-R, ELECTRA.

The rest of the code asks ``backbone_of(config.backbone_config)``. A new backbone is a class here, an entry in
``BACKBONES`` and a line in the tests' table of backbones.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.configuration_utils import PretrainedConfig


class Origin(NamedTuple):
    """Where a tensor comes from: a module of the source, or one of ``parts`` equal parts of its rows."""

    module: str
    part: int = 0
    parts: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """This part of the module's tensor."""
        return tensor.chunk(self.parts)[self.part]


class MicePooler(nn.Linear):
    """A dense layer and its activation between [CLS] and the classifier."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__(width, width)
        self.activation = ACT2FN[activation]

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, h)`` to ``(B, h)``."""
        return self.activation(super().forward(rows))


class BertBackbone:
    """BERT and MiniLM: post-norm layers; pooler (dense, tanh) and classifier on [CLS].

    Attributes:
        layers: What the names of a checkpoint's layers start with, before the layer's number.
        layer_tensors: Module of an interaction layer -> its origin within a layer of the backbone.
        encoder_head: Module of the head -> its origin in a checkpoint without a classifier.
        cross_encoder_head: Module of the head -> its origin in a checkpoint with one.
        droppable: Prefixes of what a checkpoint may hold and MICE has no place for: heads of the pre-training.
        pooler_activation: Of the dense layer before the classifier.
        pair_separators: Separator tokens between query and document in a pair encoding.
        special_tokens: Fields of the backbone's config that hold the ids of [CLS] and [SEP]; None where it has none.
        state_choices: Fields of the backbone's config that change document states without changing a weight.
    """

    layers = "encoder.layer."
    layer_tensors = {
        "self_attention.query": Origin("attention.self.query"),
        "self_attention.key": Origin("attention.self.key"),
        "self_attention.value": Origin("attention.self.value"),
        "self_attention.output": Origin("attention.output.dense"),
        "self_attention.norm": Origin("attention.output.LayerNorm"),
        "feed_forward.intermediate": Origin("intermediate.dense"),
        "feed_forward.output": Origin("output.dense"),
        "feed_forward.norm": Origin("output.LayerNorm"),
    }
    encoder_head = {"pooler": "pooler.dense"}
    cross_encoder_head = {"pooler": "pooler.dense", "classifier": "classifier"}
    droppable: tuple[str, ...] = ("cls.",)
    pooler_activation = "tanh"
    pair_separators = 1
    special_tokens: tuple[str, str] | None = None
    state_choices: tuple[str, ...] = ("num_attention_heads", "hidden_act", "layer_norm_eps")

    def check(self, config: PretrainedConfig) -> None:
        """Refuse what this type of backbone allows and MICE cannot use.

        Raises:
            ValueError: If the backbone is a decoder: its tokens read in one direction only.
        """
        if getattr(config, "is_decoder", False):
            raise ValueError(f"backbone_config: is_decoder of {config.model_type!r}; MICE needs an encoder.")

    def build(self, config: PretrainedConfig, attention: str) -> Any:
        """The contextualisation layers, without a pooler."""
        return AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention)

    def keep_layers(self, config: Any, layers: int) -> PretrainedConfig:
        """The config of the lowest ``layers`` layers, without a trace of where it was read from."""
        fields = config.to_dict() | {"num_hidden_layers": layers, "architectures": None}
        kept = type(config).from_dict(fields)
        kept._name_or_path = ""  # the folder of the source is nobody's business on the Hub
        return kept

    def special_token_ids(self, config: PretrainedConfig) -> tuple[int, int]:
        """Ids of [CLS] and [SEP]; 101 and 102, as in BERT's vocabularies, where the backbone's config has none."""
        if self.special_tokens is None:
            return 101, 102
        cls_id, sep_id = (getattr(config, name) for name in self.special_tokens)
        return cls_id, sep_id

    def positions(self, config: Any) -> int:
        """Tokens of the longest text."""
        return config.max_position_embeddings

    def build_pooler(self, config: Any) -> nn.Module:
        """What stands between [CLS] and the classifier, from a ``MiceConfig``."""
        return MicePooler(config.interaction_width, self.pooler_activation)


class RobertaBackbone(BertBackbone):
    """RoBERTa and XLM-R: as BERT; positions start behind the padding's, pairs are joined by two separators."""

    cross_encoder_head = {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}
    droppable = ("lm_head.", "roberta.pooler.")
    pair_separators = 2
    special_tokens = ("bos_token_id", "eos_token_id")
    state_choices = (*BertBackbone.state_choices, "pad_token_id")

    def positions(self, config: Any) -> int:
        """Positions up to that of the padding token are not used."""
        return config.max_position_embeddings - config.pad_token_id - 1


class ElectraBackbone(BertBackbone):
    """ELECTRA: as BERT, without a pooler; a cross-encoder's own dense layer (GELU) is kept.

    The projection of narrower embeddings is part of the backbone.
    """

    encoder_head: dict[str, str] = {}
    cross_encoder_head = {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}
    droppable = ("discriminator_predictions.", "generator_predictions.", "generator_lm_head.")
    pooler_activation = "gelu"

    def build(self, config: PretrainedConfig, attention: str) -> Any:
        """The contextualisation layers; ELECTRA never has a pooler to leave out."""
        return AutoModel.from_config(config, attn_implementation=attention)


BACKBONES: dict[str, BertBackbone] = {
    "bert": BertBackbone(),
    "roberta": RobertaBackbone(),
    "xlm-roberta": RobertaBackbone(),
    "electra": ElectraBackbone(),
}


def backbone_of(config: PretrainedConfig) -> BertBackbone:
    """What is particular to a backbone, by its config.

    Raises:
        ValueError: If its type is unknown; the message lists the known ones.
    """
    if config.model_type not in BACKBONES:
        raise ValueError(
            f"backbone_config: a backbone of type {config.model_type!r} is not one of {tuple(BACKBONES)}. MICE needs an "
            "encoder, whose tokens read in both directions; decoder-only models are none."
        )
    return BACKBONES[config.model_type]
