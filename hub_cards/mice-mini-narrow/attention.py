"""Attention as the interaction layers of MICE use it, written out: who reads whom, and one class for both attentions.

Its names and shapes are BERT's, so that an attention can start as a copy of a backbone's. The shape letters are those of
``modeling_mice.py``.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.configuration_utils import PretrainedConfig


def text_attention_mask(attention_mask: Tensor, attends_cls: bool, sep_attends_itself_alone: bool) -> Tensor:
    """What the tokens of a text read of their own text.

    Args:
        attention_mask: ``(N, S)``, bool, True at tokens.
        attends_cls: Whether other tokens read the first one.
        sep_attends_itself_alone: Whether the last token reads nothing but itself.

    Returns:
        ``(N, 1, S, S)``, bool. Rows of padding read themselves, so that none is without anything to read.
    """
    length = attention_mask.shape[1]
    mask = attention_mask.unsqueeze(1).repeat(1, length, 1)  # (N, S, S)
    if not attends_cls:
        mask[:, 1:, 0] = False
    alone = ~attention_mask
    if sep_attends_itself_alone:
        alone = alone | _is_last(attention_mask)
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return torch.where(alone.unsqueeze(2), itself, mask).unsqueeze(1)


def document_attention_mask(query_mask: Tensor, document_mask: Tensor, config: PretrainedConfig) -> Tensor:
    """What the query's tokens read of the document.

    Args:
        query_mask: ``(B, Q)``, bool, True at tokens.
        document_mask: ``(B, D)``, bool, True at tokens.
        config: The model's.

    Returns:
        ``(B, 1, Q or 1, D)``, bool.
    """
    if not config.query_attends_document_sep:
        document_mask = document_mask & ~_is_last(document_mask)
    mask = document_mask[:, None, None, :]
    if config.cls_attends_document and not config.sep_attends_itself_alone:
        return mask
    asks = torch.ones_like(query_mask)
    if not config.cls_attends_document:
        asks[:, 0] = False
    if config.sep_attends_itself_alone:
        asks &= ~_is_last(query_mask)
    return mask & asks[:, None, :, None]


def _is_last(attention_mask: Tensor) -> Tensor:
    """The last token of each text, its [SEP]: ``(N, S)``, bool."""
    tokens_from_here = attention_mask.flip(1).cumsum(1).flip(1)
    return attention_mask & (tokens_from_here == 1)


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, bias: Tensor | None = None
) -> Tensor:
    """Attention written out; the yardstick for the fused kernel.

    Args:
        query: ``(B, H, R, d)``.
        key: ``(B, H, S, d)``.
        value: ``(B, H, S, d)``.
        mask: Broadcasts to ``(B, H, R, S)``, bool, True where a row may read.
        dropout: Probability of dropping a weight.
        bias: Added to the logits, ``(B, H, R, S)``; None for nothing.

    Returns:
        ``(B, H, R, d)``.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, H, R, S)
    logits = logits if bias is None else logits + bias
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
    return F.dropout(weights, dropout) @ value


class LayerSettings(NamedTuple):
    """What the blocks of an interaction layer take from the backbone's config, which each type names in its own way.

    Attributes:
        norm_eps: Of every LayerNorm.
        norm_bias: Whether LayerNorms have a shift.
        attention_bias: Whether projections of an attention have one.
        feed_forward_bias: Whether those of a feed-forward have one.
        attention_dropout: Probability of dropping a weight of the softmax.
        output_dropout: Probability of dropping a value of what an attention adds.
        feed_forward_dropout: The same within a feed-forward.
        activation: Of the feed-forward.
    """

    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    feed_forward_bias: bool
    attention_dropout: float
    output_dropout: float
    feed_forward_dropout: float
    activation: str


class MiceAttention(nn.Module):
    """Multi-head attention with BERT's output block: dense, dropout, residual, LayerNorm.

    One class serves the query's self-attention (rows and states are the query) and its cross-attention (states are the
    document's). Heads of keys and values may be fewer than those of queries, which then share them. What other backbones
    do differently is in the methods from ``build_norm`` to ``finish``, which they override.
    """

    has_positions = False  # whether keys differ with the place of their token, so that they cannot be absorbed

    def __init__(self, config: PretrainedConfig, key_value_heads: int | None = None) -> None:
        super().__init__()
        settings, width = config.layer_settings, config.interaction_width
        self.config = config
        self.heads = config.interaction_heads
        self.key_value_heads = key_value_heads or self.heads
        key_value_width = width // self.heads * self.key_value_heads
        self.query = nn.Linear(width, width, bias=settings.attention_bias)
        self.key = nn.Linear(width, key_value_width, bias=settings.attention_bias)
        self.value = nn.Linear(width, key_value_width, bias=settings.attention_bias)
        self.output = nn.Linear(width, width, bias=settings.attention_bias)
        self.norm = self.build_norm(width, settings)
        self.dropout = nn.Dropout(settings.output_dropout)
        self.attention_dropout = settings.attention_dropout

    def build_norm(self, width: int, settings: LayerSettings) -> nn.LayerNorm | None:
        """The attention's own norm, or None."""
        return nn.LayerNorm(width, eps=settings.norm_eps, bias=settings.norm_bias)

    def prepare_rows(self, rows: Tensor) -> Tensor:
        """What is projected of the rows that ask."""
        return rows

    def prepare_states(self, states: Tensor) -> Tensor:
        """What is projected of the states that are read, or of weighted means of them."""
        return states

    def absorb_scale(self, asking: Tensor) -> Tensor:
        """``prepare_states``, absorbed into the rows that ask ``(..., h)``, up to what is the same for all states."""
        return asking

    def turn(self, projected: Tensor) -> Tensor:
        """Queries or keys ``(B, H, S, h / H)`` with the positions of their tokens."""
        return projected

    def narrow_mask(self, mask: Tensor) -> Tensor:
        """What of ``mask`` ``(B, 1, R, S)`` this layer reads."""
        return mask

    def finish(self, rows: Tensor, context: Tensor | None) -> Tensor:
        """Join the rows with what they read, both ``(B, R, h)``; of reading nothing, None, only the output's bias is left."""
        added = self.output.bias if context is None else self.dropout(self.output(context))
        joined = rows if added is None else rows + added
        return joined if self.norm is None else self.norm(joined)

    def forward(
        self,
        rows: Tensor,
        states: Tensor,
        mask: Tensor,
        is_blind: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Let ``rows`` ``(B, R, h)`` read ``states`` ``(B, S, h)`` where ``mask`` ``(B, 1, R or 1, S)`` is True.

        ``is_blind`` ``(B, 1, R or 1, 1)`` says which rows read nothing: what attention gives them is exactly zero. (A row
        whose every logit is masked would softmax to a uniform average, not to nothing.) ``bias`` ``(B, H, R, S)`` is added
        to the logits.
        """
        asking, states, mask = self.prepare_rows(rows), self.prepare_states(states), self.narrow_mask(mask)
        query = self.turn(self.query(asking).unflatten(-1, (self.heads, -1)).transpose(1, 2))  # (B, H, R, h / H)
        split, shared = (self.key_value_heads, -1), self.heads // self.key_value_heads
        key = self.turn(self.key(states).unflatten(-1, split).transpose(1, 2))  # (B, H, S, h / H), or fewer heads
        value = self.value(states).unflatten(-1, split).transpose(1, 2)
        if shared > 1:
            key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        dropout = self.attention_dropout if self.training else 0.0
        if is_blind is not None:
            mask = mask | is_blind  # without anything to read, kernels would give NaN
        if self.config._attn_implementation == "eager":
            context = eager_attention(query, key, value, mask, dropout, bias)
        else:
            if bias is not None:
                mask = bias.masked_fill(~mask, -torch.inf)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        if is_blind is not None:
            context = context.masked_fill(is_blind, 0.0)
        context = context.transpose(1, 2).flatten(-2)  # (B, R, h)
        return self.finish(rows, context)
