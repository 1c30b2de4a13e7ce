"""The interaction layers of MICE, written out: feed-forward, exact match, and the layer that joins them and its attentions.

Their names and shapes are BERT's, so that an interaction layer can start as a copy of a backbone layer. The shape
letters are those of ``modeling_mice.py``.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import MiceAttention


class MiceFeedForward(nn.Module):
    """BERT's feed-forward block with residual and LayerNorm."""

    has_gate = False  # whether the first map gives a gate beside the inner values

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        settings, width = config.layer_settings, config.interaction_width
        inner, bias = config.interaction_intermediate_size, settings.feed_forward_bias
        self.intermediate = nn.Linear(width, 2 * inner if self.has_gate else inner, bias=bias)
        self.activation = ACT2FN[settings.activation]
        self.output = nn.Linear(inner, width, bias=bias)
        self.norm = nn.LayerNorm(width, eps=settings.norm_eps, bias=settings.norm_bias)
        self.dropout = nn.Dropout(settings.feed_forward_dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, R, h)`` to ``(B, R, h)``."""
        return self.norm(rows + self.dropout(self.output(self.activation(self.intermediate(rows)))))


class MiceExactMatch(nn.Module):
    """Exact-match head ("Lex"): a query token reads the mean of the document's states that have its token id.

    Tokens without a match, and special tokens, contribute exactly zero: both maps are free of bias.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.value = nn.Linear(config.interaction_width, config.interaction_width, bias=False)
        self.output = nn.Linear(config.interaction_width, config.interaction_width, bias=False)

    def forward(self, matched_states: Tensor) -> Tensor:
        """``(B, R, h)``, the means from ``average_matches``, to ``(B, R, h)``, to be added to the rows."""
        return self.output(self.value(matched_states))


class LayerBlocks(NamedTuple):
    """The blocks of one interaction layer, as a type of backbone has them.

    Attributes:
        attention_norm: One norm for all that its attentions read, or None where each attention has its own.
        cross_attention: From the query to the document.
        self_attention: Of the query; and of the document, where it goes on through the interaction layers.
        feed_forward: Of the query, and likewise.
    """

    attention_norm: nn.LayerNorm | None
    cross_attention: MiceAttention
    self_attention: MiceAttention
    feed_forward: MiceFeedForward


class MiceInteractionLayer(GradientCheckpointingLayer):
    """The query reads itself and, one way, the document: in two attentions or in one; then the feed-forward."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.is_last = index == config.interaction_layers - 1 and config.head_pooling == "cls"
        self.cross_first = config.interaction_order == "cross_first"
        is_joint = config.interaction_attention == "joint"
        blocks = config.backbone.build_blocks(config, index)
        self.attention_norm = blocks.attention_norm
        # Any: which of these there are follows from the config.
        self.cross_attention: Any = None if is_joint else blocks.cross_attention
        self.self_attention: Any = blocks.self_attention if config.query_self_attention else None
        self.feed_forward = blocks.feed_forward
        self.exact_match = MiceExactMatch(config) if config.exact_match else None
        self.lexical_bias: Any = nn.Parameter(torch.zeros(config.interaction_heads)) if config.lexical_bias else None

    def forward(
        self,
        rows: Tensor,
        document_states: Tensor,
        query_mask: Tensor,
        document_mask: Tensor,
        matched_states: Tensor | None = None,
        matches: Tensor | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            rows: ``(B, Q, h)``.
            document_states: ``(B, D, h)``, what this layer reads.
            query_mask: ``(B, 1, Q, Q)``, bool.
            document_mask: ``(B, 1, Q or 1, D)``, bool.
            matched_states: ``(B, Q, h)`` from ``average_matches``, or None without exact-match heads.
            matches: ``(B, Q, D)`` from ``exact_matches``, or None without lexical bias.

        Returns:
            ``(B, Q, h)``; ``(B, 1, h)`` in the last layer, where only [CLS] is read of it.
        """
        kept = 1 if self.is_last else rows.shape[1]
        query_mask = query_mask[:, :, :kept]
        if self.cross_attention is None:
            rows = self._add_matches(rows, matched_states)
            states = torch.cat([rows, document_states], dim=1)  # (B, Q + D, h)
            mask = torch.cat([query_mask, document_mask[:, :, :kept].expand(-1, -1, kept, -1)], dim=-1)
            bias = self._bias(matches, kept)
            if bias is not None:
                bias = F.pad(bias, (rows.shape[1], 0))  # the query's own tokens have none
            return self.feed_forward(self.self_attention(rows[:, :kept], states, mask, bias=bias))
        if self.self_attention is None:
            return self.feed_forward(
                self._read_document(rows[:, :kept], document_states, document_mask, matched_states, matches)
            )
        if self.cross_first:
            rows = self._read_document(rows, document_states, document_mask, matched_states, matches)
            rows = self.self_attention(rows[:, :kept], rows, query_mask)
        else:
            rows = self.self_attention(rows[:, :kept], rows, query_mask)
            rows = self._read_document(rows, document_states, document_mask, matched_states, matches)
        return self.feed_forward(rows)

    def _read_document(
        self, rows: Tensor, states: Tensor, mask: Tensor, matched_states: Tensor | None, matches: Tensor | None
    ) -> Tensor:
        """Cross-attention of the first rows of the query, ``(B, R, h)``."""
        asked = rows.shape[1]
        rows, mask = self._add_matches(rows, matched_states), mask[:, :, :asked]
        is_blind = ~mask.any(-1, keepdim=True)
        return self.cross_attention(rows, states, mask, is_blind, self._bias(matches, asked))

    def _add_matches(self, rows: Tensor, matched_states: Tensor | None) -> Tensor:
        if self.exact_match is None or matched_states is None:
            return rows
        return rows + self.exact_match(matched_states[:, : rows.shape[1]])

    def _bias(self, matches: Tensor | None, asked: int) -> Tensor | None:
        """What is added to the logits of the first rows, ``(B, H, R, D)``."""
        if self.lexical_bias is None or matches is None:
            return None
        return self.lexical_bias[:, None, None] * matches[:, None, :asked]

    def contextualize(self, states: Tensor, mask: Tensor) -> Tensor:
        """Take documents ``(B, D, h)`` through the layer alone, ``mask`` ``(B, 1, D, D)``: what the next layer reads."""
        return self.feed_forward(self.self_attention(states, states, mask))
