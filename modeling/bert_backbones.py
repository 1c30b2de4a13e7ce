"""What differs between backbones with BERT's layers, in one class each: BERT and MiniLM, RoBERTa and XLM-R, ELECTRA.

``BertBackbone`` is also the base of all others: its methods say what a backbone has to answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.configuration_utils import PretrainedConfig

from .attention import LayerSettings, MiceAttention
from .layers import LayerBlocks, MiceFeedForward


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
        pretrained_with_head: Architectures that keep ``cross_encoder_head`` but its classifier, from their pre-training.
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
    pretrained_with_head: tuple[str, ...] = ()
    droppable: tuple[str, ...] = ("cls.",)
    pooler_activation = "tanh"
    pair_separators = 1
    special_tokens: tuple[str, str] | None = None
    state_choices: tuple[str, ...] = ("num_attention_heads", "hidden_act", "layer_norm_eps")

    def check(self, config: Any) -> None:
        """Refuse what this type of backbone allows and MICE cannot use.

        Args:
            config: Of the backbone.

        Raises:
            ValueError: If the backbone is a decoder: its tokens read in one direction only.
        """
        if getattr(config, "is_decoder", False):
            raise ValueError(f"backbone_config: is_decoder of {config.model_type!r}; MICE needs an encoder.")

    def check_options(self, config: Any) -> None:
        """Refuse choices of a ``MiceConfig`` that this type of backbone has no place for.

        Raises:
            ValueError: If layers of several types are asked for and the backbone has one.
        """
        for name in ("interaction_layer_types", "document_layer_types"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name}: {config.backbone_config.model_type!r} has one type of layer.")

    def build(self, config: PretrainedConfig, attention: str) -> Any:
        """The contextualisation layers, without a pooler."""
        return AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention)

    def keep_layers(self, config: Any, layers: int, **fields: Any) -> PretrainedConfig:
        """The config of the lowest ``layers`` layers and with these fields, without a trace of where it was read from."""
        fields |= {"num_hidden_layers": layers, "architectures": None}
        kept = type(config).from_dict(config.to_dict() | fields)
        kept._name_or_path = ""  # the folder of the source is nobody's business on the Hub
        return kept

    def special_token_ids(self, config: PretrainedConfig) -> tuple[int, int]:
        """Ids of [CLS] and [SEP]; 101 and 102, as in BERT's vocabularies, where the backbone's config has none."""
        if self.special_tokens is None:
            return 101, 102
        cls_id, sep_id = (getattr(config, name) for name in self.special_tokens)
        return cls_id, sep_id

    def document_config(self, config: Any) -> PretrainedConfig:
        """The config of the contextualisation layers that documents have of their own, from a ``MiceConfig``."""
        return self.keep_layers(config.backbone_config, config.document_contextualization_layers)

    def positions(self, config: Any) -> int:
        """Tokens of the longest text."""
        return config.max_position_embeddings

    def layer_settings(self, config: Any) -> LayerSettings:
        """What interaction layers take from the backbone's config."""
        dropout = config.hidden_dropout_prob
        return LayerSettings(
            norm_eps=config.layer_norm_eps,
            norm_bias=True,
            attention_bias=True,
            feed_forward_bias=True,
            attention_dropout=config.attention_probs_dropout_prob,
            output_dropout=dropout,
            feed_forward_dropout=dropout,
            activation=config.hidden_act,
        )

    def build_blocks(self, config: Any, index: int) -> LayerBlocks:
        """The blocks of interaction layer ``index``, from a ``MiceConfig``."""
        return LayerBlocks(
            None, MiceAttention(config, config.key_value_heads), MiceAttention(config), MiceFeedForward(config)
        )

    def fields_from_layers(self, config: Any, seeds: Sequence[int], own: int | None) -> dict[str, Any]:
        """Fields of the ``MiceConfig`` that follow from which layers of the backbone become what.

        Args:
            config: Of the backbone.
            seeds: The layers that interaction layers copy.
            own: Lower layers that documents have of their own, or None.
        """
        return {}

    def layer_masks(self, config: Any, mask: Tensor) -> Any:
        """What the backbone takes for a mask ``(N, 1, S, S)`` of its own."""
        return mask

    def readable(self, config: Any, states: Tensor) -> Tensor:
        """What layers read of states as they run between layers ``(..., h)``, up to a layer's own scale."""
        return states

    def build_final_norm(self, config: Any) -> nn.LayerNorm | None:
        """The norm after the last layer, where layers do not end in one, from a ``MiceConfig``."""
        return None

    def head_pooling(self, config: Any) -> str:
        """What the head reads: ``"cls"``, or the ``"mean"`` of all tokens."""
        return "cls"

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
