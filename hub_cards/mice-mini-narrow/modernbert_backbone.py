"""What is particular to ModernBERT and Ettin as backbones: pre-norm layers, windows, rotary positions, one Wqkv."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.configuration_utils import PretrainedConfig

from .attention import LayerSettings
from .bert_backbones import BertBackbone, Origin
from .layers import LayerBlocks
from .modernbert_layers import (
    PredictionHead,
    PreNormCrossAttention,
    PreNormGatedFeedForward,
    PreNormSelfAttention,
    in_window,
    normalise,
)


class ModernBertBackbone(BertBackbone):
    """ModernBERT and Ettin: pre-norm layers with rotary positions, some of which read within a window only.

    Query rows are kept as they run between the layers, document states normalised, see ``modernbert_layers.py``. The last
    norm stands after the interaction layers, before [CLS] or the mean of the query's tokens is read and goes through
    the prediction head.
    """

    layers = "layers."
    layer_tensors = {
        "attention_norm": Origin("attn_norm"),
        "self_attention.query": Origin("attn.Wqkv", 0, 3),
        "self_attention.key": Origin("attn.Wqkv", 1, 3),
        "self_attention.value": Origin("attn.Wqkv", 2, 3),
        "self_attention.output": Origin("attn.Wo"),
        "feed_forward.norm": Origin("mlp_norm"),
        "feed_forward.intermediate": Origin("mlp.Wi"),
        "feed_forward.output": Origin("mlp.Wo"),
    }
    encoder_head = {"final_norm": "final_norm", "pooled_norm": "final_norm"}
    cross_encoder_head = {
        **encoder_head,
        "pooler.dense": "head.dense",
        "pooler.norm": "head.norm",
        "classifier": "classifier",
    }
    # Its prediction head is part of the pre-training, and transformers' own classifiers start from it.
    pretrained_with_head = ("ModernBertForMaskedLM",)
    droppable = ("decoder.", "head.")
    special_tokens = ("cls_token_id", "sep_token_id")
    state_choices = (
        "num_attention_heads",
        "hidden_activation",
        "norm_eps",
        "layer_types",
        "local_attention",
        "rope_parameters",
    )

    def check(self, config: Any) -> None:
        """As for BERT.

        Raises:
            ValueError: If rotary positions are scaled; MICE computes the plain ones.
        """
        super().check(config)
        for layer_type, parameters in config.rope_parameters.items():
            if parameters["rope_type"] != "default":
                raise ValueError(f"backbone_config: rope_parameters of {layer_type} are not of the default rope_type.")

    def check_options(self, config: Any) -> None:
        """Refuse choices of a ``MiceConfig``.

        Raises:
            ValueError: If the types of the interaction layers are not known or not as many as these; or if the query
                should read itself and the document in one softmax: rotary positions say how far apart two tokens are,
                which means nothing between a query and a document that is encoded apart.
        """
        own = config.document_contextualization_layers
        for name, types, layers in (
            ("interaction_layer_types", self._layer_types(config), config.interaction_layers),
            ("document_layer_types", self._document_layer_types(config), own or 0),
        ):
            if len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}:
                raise ValueError(
                    f"{name}: expected 'full_attention' or 'sliding_attention' for each of {layers} layers, got {types}."
                )
        if config.interaction_attention == "joint":
            raise ValueError("interaction_attention: 'joint' is not possible with 'modernbert', use 'split'.")

    def _layer_types(self, config: Any) -> list[str]:
        types = config.interaction_layer_types
        return ["full_attention"] * config.interaction_layers if types is None else types

    def _document_layer_types(self, config: Any) -> list[str]:
        types = config.document_layer_types
        return (
            config.backbone_config.layer_types[: config.document_contextualization_layers or 0]
            if types is None
            else types
        )

    def document_config(self, config: Any) -> PretrainedConfig:
        """As for BERT, with the types of these layers."""
        layers = config.document_contextualization_layers
        return super().keep_layers(config.backbone_config, layers, layer_types=self._document_layer_types(config))

    def build(self, config: PretrainedConfig, attention: str) -> Any:
        """The contextualisation layers; their last norm has its place after the interaction layers."""
        model = AutoModel.from_config(config, attn_implementation=attention)
        model.final_norm = nn.Identity()
        return model

    def keep_layers(self, config: Any, layers: int, **fields: Any) -> PretrainedConfig:
        """As for BERT, and their types."""
        return super().keep_layers(config, layers, layer_types=config.layer_types[:layers], **fields)

    def layer_settings(self, config: Any) -> LayerSettings:
        """What interaction layers take from the backbone's config."""
        return LayerSettings(
            norm_eps=config.norm_eps,
            norm_bias=config.norm_bias,
            attention_bias=config.attention_bias,
            feed_forward_bias=config.mlp_bias,
            attention_dropout=config.attention_dropout,
            output_dropout=config.attention_dropout,
            feed_forward_dropout=config.mlp_dropout,
            activation=config.hidden_activation,
        )

    def build_blocks(self, config: Any, index: int) -> LayerBlocks:
        """The blocks of interaction layer ``index``; one norm serves both attentions."""
        settings = config.layer_settings
        norm = nn.LayerNorm(config.interaction_width, eps=settings.norm_eps, bias=settings.norm_bias)
        self_attention = PreNormSelfAttention(config, norm, self._layer_types(config)[index])
        return LayerBlocks(norm, PreNormCrossAttention(config, norm), self_attention, PreNormGatedFeedForward(config))

    def fields_from_layers(self, config: Any, seeds: Sequence[int], own: int | None) -> dict[str, Any]:
        """Layers are of the types of those that they copy.

        Raises:
            ValueError: If layer 0 is among them: it reads the embeddings without a norm.
        """
        if 0 in seeds:
            raise ValueError(
                "interaction_layers: layer 0 of 'modernbert' has no attention norm, choose among those above."
            )
        fields = {"interaction_layer_types": [config.layer_types[layer] for layer in seeds]}
        return fields if own is None else fields | {"document_layer_types": config.layer_types[:own]}

    def layer_masks(self, config: Any, mask: Tensor) -> Any:
        """One mask per type of layer: local layers read what the mask and the window both permit."""
        window = in_window(mask.shape[-1], config.sliding_window, mask.device)
        blocked = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return {"full_attention": mask, "sliding_attention": mask.masked_fill(~window, blocked)}

    def readable(self, config: Any, states: Tensor) -> Tensor:
        """Normalised; each layer's norm only scales it."""
        return normalise(states, config.norm_eps)

    def build_final_norm(self, config: Any) -> nn.LayerNorm:
        """The norm after the last layer."""
        settings = config.layer_settings
        return nn.LayerNorm(config.interaction_width, eps=settings.norm_eps, bias=settings.norm_bias)

    def head_pooling(self, config: Any) -> str:
        """As its classifiers pool."""
        return config.classifier_pooling

    def build_pooler(self, config: Any) -> nn.Module:
        """The prediction head."""
        return PredictionHead(config)
