"""The way to states: each text on its own, through the contextualisation layers. Nothing here sees a pair.

The shape letters are those of ``modeling_mice.py``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import text_attention_mask
from .configuration_mice import MiceConfig
from .states import EncodedTexts


class MicePreTrainedModel(PreTrainedModel):
    """Loading that never leaves a tensor at its random start."""

    config_class = MiceConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [
        "BertLayer",
        "RobertaLayer",
        "XLMRobertaLayer",
        "ElectraLayer",
        "ModernBertEncoderLayer",
        "MiceInteractionLayer",
    ]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but a missing or an unexpected tensor is an error.

        Raises:
            ValueError: If the checkpoint lacks a tensor of the model, or holds one that has no place in it; the
                message names them.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        faults = [f"{kind}: {sorted(info[kind])}" for kind in ("missing_keys", "unexpected_keys") if info[kind]]
        if faults:
            raise ValueError(f"The checkpoint does not fit {cls.__name__}. {'; '.join(faults)}")
        return (model, info) if output_loading_info else model


class MiceContextualization(MicePreTrainedModel):
    """Queries and documents, apart, to the states that interaction layers read; what a document passes through, to freeze it.

    Attributes:
        interaction: The interaction layers, which the model itself builds: with ``document_states="per_layer"`` documents
            go on, alone, through their self-attention and feed-forward.
    """

    interaction: Any

    def __init__(self, config: MiceConfig) -> None:
        super().__init__(config)
        self.backbone = config.backbone.build(config.backbone_config, config._attn_implementation)
        own = config.document_contextualization_layers
        self.document_backbone: Any = None
        if own is not None:
            kept = config.backbone.document_config(config)
            self.document_backbone = config.backbone.build(kept, config._attn_implementation)
        # Free of bias, so that the mean of narrow states is the narrow mean: the pooled residual stays a cosine of means.
        narrow = config.interaction_hidden_size is not None
        self.query_projection: Any = (
            nn.Linear(config.hidden_size, config.interaction_width, bias=False) if narrow else None
        )
        self.document_projection: Any = (
            nn.Linear(config.hidden_size, config.interaction_width, bias=False) if narrow else None
        )

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of queries; documents share them, unless they have layers of their own."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of queries."""
        self.backbone.set_input_embeddings(value)

    def document_modules(self) -> dict[str, nn.Module]:
        """What documents pass through on the way to their states, by name; queries may pass through it as well."""
        modules: dict[str, nn.Module] = {"backbone": self.backbone}
        if self.document_backbone is not None:
            modules = {"document_backbone": self.document_backbone}
        for name in ("document_projection", "pooled_norm"):
            if (module := getattr(self, name)) is not None:
                modules[name] = module
        if self.config.document_states == "per_layer":
            # The output of the last layer that reads the document is nobody's document.
            layers: list[Any] = list(self.interaction[: self.config.reading_layers - 1])
            for index, layer in enumerate(layers):
                modules[f"interaction.{index}.self_attention"] = layer.self_attention
                modules[f"interaction.{index}.feed_forward"] = layer.feed_forward
                if layer.attention_norm is not None:
                    modules[f"interaction.{index}.attention_norm"] = layer.attention_norm
        return modules

    def freeze_contextualization(self) -> None:
        """Train nothing that documents pass through, so that their states can be stored and read while training."""
        for module in self.document_modules().values():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "MiceContextualization":
        """As in torch; what is frozen of the documents' way stays in evaluation mode, so that stored states stay true."""
        super().train(mode)
        for module in self.document_modules().values():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def encode_queries(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise queries ``[CLS] query [SEP]``, ``(N, Q)`` each; the first step of a score."""
        return self._encode(input_ids, attention_mask, "query", self.query_projection)

    def encode_documents(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise documents, ``(N, D)`` each, without any query.

        Documents are ``[CLS] document [SEP]``, without the [CLS] where ``document_cls`` is False. Of the states
        ``(N, D, s)``, columns ``i * h`` to ``(i + 1) * h`` are what interaction layer ``i`` reads where each reads its own.
        """
        encoded = self._encode(input_ids, attention_mask, "document", self.document_projection)
        if self.config.document_states == "frozen":
            return encoded._replace(states=self.readable(encoded.states))
        mask = self._text_mask(encoded.attention_mask, "document")  # (N, 1, D, D)
        states = [encoded.states]
        layers: list[Any] = list(self.interaction[: self.config.reading_layers - 1])
        for layer in layers:
            states.append(layer.contextualize(states[-1], mask))  # (N, D, h)
        return encoded._replace(states=torch.cat([self.readable(rows) for rows in states], dim=-1))  # (N, D, s)

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor, side: str, projection: nn.Module | None
    ) -> EncodedTexts:
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"input_ids: ids from {int(input_ids.min())} to {int(input_ids.max())} do not fit a vocabulary of "
                f"{self.config.vocab_size}; is this the model's own tokenizer?"
            )
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        if self.config.sep_attends_itself_alone or not self.config.contextualization_attends_cls:
            mask = self._text_mask(attention_mask.bool(), side)
            if self.config._attn_implementation == "eager":  # adds its mask to the logits
                mask = torch.zeros(mask.shape, device=mask.device, dtype=self.dtype).masked_fill(
                    ~mask, torch.finfo(self.dtype).min
                )
            arguments["attention_mask"] = self.config.backbone.layer_masks(self.config.backbone_config, mask)
        if side == "document" and self.config.document_token_type:
            arguments["token_type_ids"] = torch.full_like(input_ids, self.config.document_token_type)
        is_apart = side == "document" and self.document_backbone is not None
        states = (self.document_backbone if is_apart else self.backbone)(**arguments).last_hidden_state
        if projection is not None:
            states = projection(self.readable(states))
        return EncodedTexts(states, attention_mask.bool(), input_ids)

    def readable(self, states: Tensor) -> Tensor:
        """What layers read of states ``(..., h)`` as they run between layers, up to a layer's own scale.

        Document states are kept like this.
        """
        return self.config.backbone.readable(self.config.backbone_config, states)

    def _text_mask(self, attention_mask: Tensor, side: str) -> Tensor:
        """What the tokens of texts ``(N, S)`` read of their own text while they are contextualised, ``(N, 1, S, S)``."""
        has_cls = side == "query" or self.config.document_cls
        attends_cls = self.config.contextualization_attends_cls or not has_cls
        return text_attention_mask(attention_mask, attends_cls, self.config.sep_attends_itself_alone)
