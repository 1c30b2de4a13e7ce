"""The parts of MICE: states, masks, attention, feed-forward, interaction layers, and what adds to the head's score.

Names and shapes of an interaction layer are BERT's, so that it can start as a copy of a backbone layer. Pre-norm backbones
(ModernBERT) normalise what a block reads, in place of what it gives. The shape letters are those of ``modeling_mice.py``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mice import MiceConfig

# ---------------------------------------------------------------------------------------------------------------- states


@dataclass
class DocumentStates:
    """One document after the contextualisation layers: all that ranking needs of it.

    Attributes:
        states: ``(n_tokens, hidden)``, float32, float16 or bfloat16; [CLS] and [SEP] included. Where each interaction
            layer reads states of its own (``document_states="per_layer"``) these lie side by side, ``(n_tokens,
            layers that read them * hidden)``, so that codecs and stores see nothing but a wider state.
        input_ids: ``(n_tokens,)``, int64; exact matches compare them with the query's.
    """

    states: Tensor
    input_ids: Tensor

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.input_ids.shape != self.states.shape[:1] or len(self.states) == 0:
            raise ValueError(
                f"DocumentStates: states {tuple(self.states.shape)} and input_ids {tuple(self.input_ids.shape)} "
                "must be (n_tokens, hidden) and (n_tokens,) with at least one token."
            )

    def __len__(self) -> int:
        return len(self.input_ids)


class EncodedTexts(NamedTuple):
    """A padded batch of contextualised texts.

    Attributes:
        states: ``(N, S, hidden)``, the model's dtype; what padding holds is never read.
        attention_mask: ``(N, S)``, bool, True at tokens.
        input_ids: ``(N, S)``, int64.
    """

    states: Tensor
    attention_mask: Tensor
    input_ids: Tensor

    def select(self, index: Tensor) -> "EncodedTexts":
        """The texts at ``index`` ``(B,)``, int64, in that order, repeated where it repeats."""
        return EncodedTexts(self.states[index], self.attention_mask[index], self.input_ids[index])

    def unpad(self) -> list[DocumentStates]:
        """One ``DocumentStates`` per text, each with memory of its own."""
        return [
            DocumentStates(states[mask], ids[mask])
            for states, mask, ids in zip(self.states, self.attention_mask, self.input_ids, strict=True)
        ]

    @classmethod
    def pad(cls, documents: Sequence[DocumentStates], dtype: torch.dtype, device: torch.device) -> "EncodedTexts":
        """The inverse of ``unpad``, in ``dtype`` on ``device``."""
        states = [document.states.to(device=device, dtype=dtype) for document in documents]
        ids = [document.input_ids.to(device) for document in documents]
        mask = [torch.ones(len(document.input_ids), dtype=torch.bool, device=device) for document in documents]
        pad = nn.utils.rnn.pad_sequence
        return cls(pad(states, batch_first=True), pad(mask, batch_first=True), pad(ids, batch_first=True))


# ----------------------------------------------------------------------------------------------------------------- masks


def text_attention_mask(attention_mask: Tensor, attends_cls: bool, sep_attends_itself_alone: bool) -> Tensor:
    """Which tokens of a text read which of their own text.

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
        alone = alone | last_token(attention_mask)
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return torch.where(alone.unsqueeze(2), itself, mask).unsqueeze(1)


def document_attention_mask(query_mask: Tensor, document_mask: Tensor, config: MiceConfig) -> Tensor:
    """Which tokens of the query read which of the document.

    Args:
        query_mask: ``(B, Q)``, bool, True at tokens.
        document_mask: ``(B, D)``, bool, True at tokens.
        config: The model's.

    Returns:
        ``(B, 1, Q or 1, D)``, bool.
    """
    if config.mask3_frame:
        document_mask = document_mask & ~last_token(document_mask)
    mask = document_mask[:, None, None, :]
    if config.cls_attends_document and not config.mask3_frame:
        return mask
    reads = torch.ones_like(query_mask)
    if not config.cls_attends_document:
        reads[:, 0] = False
    if config.mask3_frame:
        reads &= ~last_token(query_mask)
    return mask & reads[:, None, :, None]


def last_token(attention_mask: Tensor) -> Tensor:
    """Where the last token of each text stands, its [SEP]: ``(N, S)``, bool."""
    tokens_from_here = attention_mask.flip(1).cumsum(1).flip(1)
    return attention_mask & (tokens_from_here == 1)


def window_mask(length: int, half_width: int, device: torch.device) -> Tensor:
    """Which tokens of a text lie within ``half_width`` tokens of each other, ``(S, S)``, bool."""
    places = torch.arange(length, device=device)
    return (places.unsqueeze(1) - places).abs() <= half_width


# ------------------------------------------------------------------------------------------------------------- attention


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention written out; the yardstick for the fused kernel.

    Args:
        query: ``(B, H, R, d)``.
        key: ``(B, H, S, d)``.
        value: ``(B, H, S, d)``.
        mask: Broadcasts to ``(B, H, R, S)``, bool, True where a row may read.
        dropout: Probability of dropping a weight.
        bias: Added to the logits, ``(B, H, R, S)``; None for nothing.

    Returns:
        ``(B, H, R, d)``, and the weights ``(B, H, R, S)``.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, H, R, S)
    logits = logits if bias is None else logits + bias
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
    return F.dropout(weights, dropout) @ value, weights


class MiceAttention(nn.Module):
    """Multi-head attention with BERT's output block: dense, dropout, residual, LayerNorm.

    One class serves the query's self-attention (rows and states are the query) and its cross-attention (states are the
    document's). In pre-norm layers the norm belongs to the layer, and there is none here.
    """

    def __init__(self, config: MiceConfig) -> None:
        super().__init__()
        settings, width = config.layer_settings, config.interaction_width
        self.config = config
        self.heads = config.interaction_heads
        self.query = nn.Linear(width, width, bias=settings.attention_bias)
        self.key = nn.Linear(width, width, bias=settings.attention_bias)
        self.value = nn.Linear(width, width, bias=settings.attention_bias)
        self.output = nn.Linear(width, width, bias=settings.attention_bias)
        self.norm: Any = None if config.facts.pre_norm else MiceLayerNorm(config)
        self.dropout = nn.Dropout(settings.output_dropout)
        self.attention_dropout = settings.attention_dropout

    def split_heads(self, projected: Tensor) -> Tensor:
        """``(..., S, h)`` to ``(..., H, S, d)``."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def add_positions(self, projected: Tensor) -> Tensor:
        """Queries or keys ``(B, H, S, d)`` with the positions of their tokens, where the attention has any."""
        return projected

    def restrict(self, mask: Tensor) -> Tensor:
        """The part of ``mask`` ``(B, 1, R, S)`` that lies within the layer's window, where it has one."""
        return mask

    def finish(self, rows: Tensor, context: Tensor) -> Tensor:
        """Join rows ``(B, R, h)`` with what they read, ``(B, R, h)``."""
        joined = rows + self.dropout(self.output(context))
        return joined if self.norm is None else self.norm(joined)

    def forward(
        self,
        rows: Tensor,
        queries: Tensor,
        states: Tensor,
        mask: Tensor,
        is_blind: Tensor | None = None,
        bias: Tensor | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """Let rows read states.

        Args:
            rows: ``(B, R, h)``; what is read is added to them.
            queries: ``(B, R, h)``, the rows as they are projected: normalised in pre-norm layers, else the rows.
            states: ``(B, S, h)``, likewise.
            mask: ``(B, 1, R or 1, S)``, bool, True where a row may read.
            is_blind: ``(B, 1, R or 1, 1)``, bool: rows that read nothing. What attention gives them is exactly zero. (A row
                whose every logit is masked would softmax to a uniform average, not to nothing.)
            bias: Added to the logits, ``(B, H, R, S)``; None for nothing.
            attentions: A list that takes the weights, ``(B, H, R, S)``, zero in blind rows; None to keep none.

        Returns:
            ``(B, R, h)``.
        """
        mask = self.restrict(mask)
        query = self.add_positions(self.split_heads(self.query(queries)))  # (B, H, R, d)
        key = self.add_positions(self.split_heads(self.key(states)))  # (B, H, S, d)
        value = self.split_heads(self.value(states))
        dropout = self.attention_dropout if self.training else 0.0
        if is_blind is not None:
            mask = mask | is_blind  # without anything to read, kernels would give NaN
        if attentions is not None or self.config._attn_implementation == "eager":
            context, weights = eager_attention(query, key, value, mask, dropout, bias)
            if attentions is not None:
                attentions.append(weights if is_blind is None else weights.masked_fill(is_blind, 0.0))
        else:
            if bias is not None:
                mask = bias.masked_fill(~mask, -torch.inf)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        if is_blind is not None:
            context = context.masked_fill(is_blind, 0.0)
        return self.finish(rows, context.transpose(1, 2).flatten(-2))


class MiceRotaryAttention(MiceAttention):
    """ModernBERT's self-attention: rotary positions from 0, everywhere or within a window."""

    def __init__(self, config: MiceConfig, layer_type: str) -> None:
        super().__init__(config)
        backbone = config.backbone_config
        self.base = backbone.rope_parameters[layer_type]["rope_theta"]
        self.half_window = backbone.sliding_window if layer_type == "sliding_attention" else None

    def add_positions(self, projected: Tensor) -> Tensor:
        """Rotary position embedding (arXiv 2104.09864) of ``(B, H, S, d)`` at positions 0 to S - 1.

        Dimensions ``i`` and ``i + d / 2`` are turned by ``position * base ** (-2 i / d)``, computed in float32.
        """
        length, width = projected.shape[-2:]
        steps = torch.arange(0, width, 2, device=projected.device, dtype=torch.float32) / width
        places = torch.arange(length, device=projected.device, dtype=torch.float32)
        angles = places.unsqueeze(1) * (1.0 / self.base**steps)  # (S, d / 2)
        # As transformers rounds them, to the dtype of the rows.
        cos, sin = (part.to(projected.dtype).float() for part in (angles.cos(), angles.sin()))
        first, second = projected.float().chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return turned.to(projected.dtype)

    def restrict(self, mask: Tensor) -> Tensor:
        """The window and the mask."""
        if self.half_window is None:
            return mask
        rows, read = mask.shape[-2:]
        return mask & window_mask(read, self.half_window, mask.device)[:rows]


# ------------------------------------------------------------------------------------------------ norms and feed-forward


class MiceLayerNorm(nn.LayerNorm):
    """A LayerNorm of the interaction layers, which also takes states that are normalised already."""

    def __init__(self, config: MiceConfig) -> None:
        settings = config.layer_settings
        super().__init__(config.interaction_width, eps=settings.norm_eps, bias=settings.norm_bias)

    def forward(self, rows: Tensor, is_normalised: bool = False) -> Tensor:
        """``(..., h)`` to ``(..., h)``; rows of zero mean and unit variance are only scaled and shifted."""
        if not is_normalised:
            return super().forward(rows)
        scaled = rows * self.weight
        return scaled if self.bias is None else scaled + self.bias


def normalise(states: Tensor, eps: float) -> Tensor:
    """States ``(..., h)`` with zero mean and unit variance: what a LayerNorm makes of them before it scales."""
    return F.layer_norm(states, states.shape[-1:], eps=eps)


class MiceFeedForward(nn.Module):
    """BERT's feed-forward block with residual and LayerNorm."""

    def __init__(self, config: MiceConfig, gates: int = 0) -> None:
        super().__init__()
        settings, width = config.layer_settings, config.interaction_width
        inner, bias = config.interaction_intermediate_size, settings.feed_forward_bias
        self.intermediate = nn.Linear(width, (1 + gates) * inner, bias=bias)
        self.activation = ACT2FN[settings.activation]
        self.output = nn.Linear(inner, width, bias=bias)
        self.norm = MiceLayerNorm(config)
        self.dropout = nn.Dropout(settings.feed_forward_dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, R, h)`` to ``(B, R, h)``."""
        return self.norm(rows + self.dropout(self.output(self.activation(self.intermediate(rows)))))


class MiceGatedFeedForward(MiceFeedForward):
    """ModernBERT's feed-forward: half of the inner values, activated, gates the other half (GeGLU, arXiv 2002.05202)."""

    def __init__(self, config: MiceConfig) -> None:
        super().__init__(config, gates=1)

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, R, h)`` to ``(B, R, h)``."""
        inner, gate = self.intermediate(self.norm(rows)).chunk(2, dim=-1)
        return rows + self.output(self.dropout(self.activation(inner) * gate))


# ---------------------------------------------------------------------------------------------------- interaction layers


class MiceExactMatch(nn.Module):
    """Exact-match head ("Lex"): a query token reads the mean of the document's states that have its token id.

    Tokens without a match, and special tokens, contribute exactly zero: both maps are free of bias.
    """

    def __init__(self, config: MiceConfig) -> None:
        super().__init__()
        self.value = nn.Linear(config.interaction_width, config.interaction_width, bias=False)
        self.output = nn.Linear(config.interaction_width, config.interaction_width, bias=False)

    def forward(self, matched_states: Tensor) -> Tensor:
        """``(B, R, h)``, the means from ``average_matches``, to ``(B, R, h)``, to be added to the rows."""
        return self.output(self.value(matched_states))


class MiceInteractionLayer(GradientCheckpointingLayer):
    """The query reads itself and the document; the document is never updated.

    Args:
        config: The model's.
        index: The layer's place, from 0. Of the last layer only [CLS] is computed, where the head reads nothing else.
    """

    def __init__(self, config: MiceConfig, index: int) -> None:
        super().__init__()
        is_pre_norm = config.facts.pre_norm
        self.is_last = index == config.interaction_layers - 1 and config.head_pooling == "cls"
        self.cross_first = config.interaction_order == "cross_first"
        # One norm serves both attentions of a pre-norm layer: ModernBERT's ``attn_norm``.
        self.attention_norm: Any = MiceLayerNorm(config) if is_pre_norm else None
        # Any: which of these there are follows from the config.
        self.cross_attention: Any = MiceAttention(config) if config.interaction_attention == "split" else None
        self.self_attention: Any = None
        if config.query_self_attention and is_pre_norm:
            self.self_attention = MiceRotaryAttention(config, config.self_attention_types()[index])
        elif config.query_self_attention:
            self.self_attention = MiceAttention(config)
        self.feed_forward = MiceGatedFeedForward(config) if is_pre_norm else MiceFeedForward(config)
        self.exact_match: Any = MiceExactMatch(config) if config.exact_match else None
        self.lexical_bias: Any = nn.Parameter(torch.zeros(config.interaction_heads)) if config.lexical_bias else None

    def forward(
        self,
        rows: Tensor,
        document_states: Tensor,
        query_mask: Tensor,
        document_mask: Tensor,
        matched_states: Tensor | None = None,
        matches: Tensor | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            rows: ``(B, Q, h)``.
            document_states: ``(B, D, h)``, what this layer reads.
            query_mask: ``(B, 1, Q, Q)``, bool.
            document_mask: ``(B, 1, Q or 1, D)``, bool.
            matched_states: ``(B, Q, h)`` from ``average_matches``, or None without exact-match heads.
            matches: ``(B, Q, D)`` from ``exact_matches``, or None without lexical bias.
            attentions: A list that takes the weights with which the document is read; None to keep none.

        Returns:
            ``(B, Q, h)``; ``(B, 1, h)`` in the last layer, where only [CLS] is read of it.
        """
        # Rows that are computed to the end, from the first on; and those that read the document.
        last = 1 if self.is_last else rows.shape[1]
        readers = rows.shape[1] if self.cross_first and self.self_attention is not None else last
        if self.cross_attention is None:
            if matched_states is not None:
                rows = self.add_matches(rows, matched_states)
            return self.feed_forward(
                self._read_jointly(rows, last, document_states, query_mask, document_mask, matches)
            )
        if not self.cross_first:
            rows = self.read_query(rows, query_mask, last)
        rows = rows[:, :readers]
        if matched_states is not None:
            rows = self.add_matches(rows, matched_states)
        mask = document_mask[:, :, :readers]
        bias = None if matches is None else self._lexical_bias(matches, readers)
        states = self.normalise(document_states, is_normalised=True)
        is_blind = ~mask.any(-1, keepdim=True)
        rows = self.cross_attention(rows, self.normalise(rows), states, mask, is_blind, bias, attentions)
        if self.cross_first and self.self_attention is not None:
            rows = self.read_query(rows, query_mask, last)
        return self.feed_forward(rows)

    def read_query(self, rows: Tensor, mask: Tensor, count: int) -> Tensor:
        """Self-attention: the first ``count`` of rows ``(B, Q, h)`` read all of them where ``mask`` ``(B, 1, Q, Q)`` is True."""
        states = self.normalise(rows)
        return self.self_attention(rows[:, :count], states[:, :count], states, mask[:, :, :count])

    def _read_jointly(
        self,
        rows: Tensor,
        count: int,
        document_states: Tensor,
        query_mask: Tensor,
        document_mask: Tensor,
        matches: Tensor | None,
    ) -> Tensor:
        """The first ``count`` of rows ``(B, Q, h)`` read all of them and the document in one softmax."""
        states = torch.cat([rows, document_states], dim=1)  # (B, Q + D, h)
        mask = torch.cat([query_mask[:, :, :count], document_mask[:, :, :count].expand(-1, -1, count, -1)], dim=-1)
        bias = None if matches is None else self._lexical_bias(matches, count)
        if bias is not None:
            bias = F.pad(bias, (rows.shape[1], 0))  # the query's own tokens have none
        return self.self_attention(rows[:, :count], rows[:, :count], states, mask, bias=bias)

    def normalise(self, states: Tensor, is_normalised: bool = False) -> Tensor:
        """Rows or document states as attention projects them; a pre-norm model's document states are normalised already."""
        return states if self.attention_norm is None else self.attention_norm(states, is_normalised)

    def add_matches(self, rows: Tensor, matched_states: Tensor) -> Tensor:
        """Rows ``(B, R, h)`` with what the exact-match head reads for them, ``(B, Q, h)``; no more than Q of them."""
        return rows + self.exact_match(matched_states[:, : rows.shape[1]])

    def _lexical_bias(self, matches: Tensor, rows: int) -> Tensor | None:
        """Bias of the logits of the first rows, ``(B, H, R, D)``; None where the layer has none."""
        if self.lexical_bias is None:
            return None
        return self.lexical_bias[:, None, None] * matches[:, None, :rows]

    def contextualize(self, states: Tensor, mask: Tensor) -> Tensor:
        """Take documents ``(B, D, h)`` through the layer alone, ``mask`` ``(B, 1, D, D)``: what the next layer reads."""
        return self.feed_forward(self.read_query(states, mask, states.shape[1]))


def exact_matches(queries: EncodedTexts, documents: EncodedTexts, unmatched_ids: Sequence[int]) -> Tensor:
    """Where a query token and a document token have the same id, ``(B, Q, D)``, bool; never at ``unmatched_ids``."""
    matches = queries.input_ids.unsqueeze(2) == documents.input_ids.unsqueeze(1)
    matches &= documents.attention_mask.unsqueeze(1) & queries.attention_mask.unsqueeze(2)
    return matches & ~is_one_of(queries.input_ids, unmatched_ids).unsqueeze(2)


def is_one_of(input_ids: Tensor, ids: Iterable[int]) -> Tensor:
    """Where ``input_ids`` are among some ids; bool, of the same shape."""
    return torch.isin(input_ids, torch.tensor(list(ids), device=input_ids.device, dtype=input_ids.dtype))


def average_matches(matches: Tensor, document_states: Tensor) -> Tensor:
    """Mean of the document states ``(B, D, s)`` whose token id equals the query token's, from ``exact_matches``.

    Returns:
        ``(B, Q, s)``, zero for tokens without a match.
    """
    weights = matches.to(document_states.dtype)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1.0)) @ document_states


# ------------------------------------------------------------------------------------------------------ head and residual


class MicePooler(nn.Linear):
    """A dense layer and its activation between [CLS] and the classifier."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__(width, width)
        self.activation = ACT2FN[activation]

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, h)`` to ``(B, h)``."""
        return self.activation(super().forward(rows))


class MicePredictionHead(nn.Module):
    """ModernBERT's dense layer, activation and norm before the classifier."""

    def __init__(self, config: MiceConfig) -> None:
        super().__init__()
        backbone, width = config.backbone_config, config.interaction_width
        self.dense = nn.Linear(width, width, bias=backbone.classifier_bias)
        self.activation = ACT2FN[backbone.classifier_activation]
        self.norm = MiceLayerNorm(config)

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, h)`` to ``(B, h)``."""
        return self.norm(self.activation(self.dense(rows)))


class MiceClassifier(nn.Linear):
    """The last map, to one logit; it runs in float32 whatever the model's dtype, so that rounding makes no ties."""

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, h)`` to ``(B, 1)``, float32."""
        if type(self.weight) not in (nn.Parameter, Tensor):  # a quantised weight has a product of its own
            return super().forward(rows).float()
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(rows.float(), self.weight.float(), self.bias.float())


class MiceMaxSimResidual(nn.Module):
    """Late interaction beside the head: how alike the tokens of query and document are, at best, seen from both sides.

    ``exp(s) * (sum_i w_i max_j (c_ij + b m_ij) / sum_i w_i + g mean_j max_i c_ij)`` with the cosines ``c_ij`` of query token i
    and document token j, over the states that the interaction layers read. The first part is MaxSim as in ColBERT (arXiv
    2004.12832) with a weight for the token id of each query token, and a bonus ``b`` where both ids are the same (``m_ij``): what
    a word is in its context must not outweigh that it is that very word. The second asks how much of the document is
    about the query. A conversion starts with equal weights, or with inverse document frequencies; special tokens of the
    query do not count. A query without others gets 0.
    """

    MATCH_BONUS = 0.1  # measured on development sets, see docs/training.md
    DOCUMENT_SHARE = 0.3  # likewise
    SCALE = 20.0  # as the pooled residual's

    def __init__(self, config: MiceConfig) -> None:
        super().__init__()
        self.special_ids = (config.cls_token_id, config.sep_token_id)
        self.config = config
        self.log_scale = nn.Parameter(torch.full((1,), math.log(self.SCALE)))
        self.log_weights = nn.Parameter(torch.zeros(config.vocab_size))
        self.match_bonus = nn.Parameter(torch.full((1,), self.MATCH_BONUS))
        self.document_share = nn.Parameter(torch.full((1,), self.DOCUMENT_SHARE))

    def resize(self, tokens: int) -> None:
        """Give each of ``tokens`` token ids a weight: its own, or the mean of them for a new one."""
        known = self.log_weights.data
        grown = known.mean().expand(max(0, tokens - len(known)))
        self.log_weights = nn.Parameter(
            torch.cat([known[:tokens], grown]), requires_grad=self.log_weights.requires_grad
        )

    def weigh(self, queries: EncodedTexts) -> Tensor:
        """Weight of each query token, ``(B, Q)``, float32, with sum 1, or 0 without a token that counts."""
        counts = queries.attention_mask & ~is_one_of(queries.input_ids, self.special_ids)
        weights = self.log_weights.float()[queries.input_ids].exp() * counts
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)

    def find_best(self, cosines: Tensor, query_ids: Tensor, document_ids: Tensor) -> Tensor:
        """The most alike document token of each query token.

        Args:
            cosines: ``(..., Q, D)``, float32.
            query_ids: ``(..., Q)``, int64.
            document_ids: ``(..., D)``, int64.

        Returns:
            Its cosine, and the bonus where it is the same token, ``(..., Q)``. Two unknown words are not the same one.
        """
        is_match = query_ids.unsqueeze(-1) == document_ids.unsqueeze(-2)
        if self.config.unk_token_id is not None:
            is_match &= (query_ids != self.config.unk_token_id).unsqueeze(-1)
        return (cosines + self.match_bonus.float() * is_match).amax(-1)

    def combine(self, weights: Tensor, best: Tensor, document_mean: Tensor) -> Tensor:
        """Weights and ``find_best`` ``(B, Q)``, mean over document tokens of their greatest cosine ``(B,)`` to ``(B, 1)``."""
        total = (weights * best).sum(-1) + self.document_share.float() * document_mean
        return (self.log_scale.float().exp() * total).unsqueeze(-1)

    def forward(self, queries: EncodedTexts, documents: EncodedTexts) -> Tensor:
        """States ``(B, Q, h)`` and ``(B, D, h)`` to ``(B, 1)``, float32."""
        with torch.autocast(queries.states.device.type, enabled=False):
            rows, tokens = (F.normalize(states.float(), dim=-1) for states in (queries.states, documents.states))
            cosines = rows @ tokens.transpose(-1, -2)  # (B, Q, D)
            weights, lowest = self.weigh(queries), torch.finfo(cosines.dtype).min
            counts, is_token = weights > 0, documents.attention_mask
            masked = cosines.masked_fill(~is_token.unsqueeze(1), lowest)
            best = self.find_best(masked, queries.input_ids, documents.input_ids)
            most_alike = cosines.masked_fill(~counts.unsqueeze(2), lowest).amax(1)  # (B, D)
            most_alike = most_alike.masked_fill(~(is_token & counts.any(-1, keepdim=True)), 0.0)
            return self.combine(weights, best, most_alike.sum(-1) / is_token.sum(-1))


# ----------------------------------------------------------------------------------- modules that are more than a weight


def is_plain(module: nn.Module) -> bool:
    """Whether every part of a module computes from its own weights and nothing else.

    The fast path reads weights in place of calling modules. It may do so unless somebody added to a module: an adapter
    (LoRA replaces it by a class of its own), a quantised weight, a parametrisation, accelerate's offload, a forward hook.
    """
    for part in module.modules():
        has_own = bool(part._parameters or part._modules)
        if (has_own and type(part) not in _PLAIN_TYPES) or is_hooked(part):
            return False
        if any(
            parameter is not None and type(parameter) is not nn.Parameter for parameter in part._parameters.values()
        ):
            return False
    return True


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its class's ``forward``: hooks, or a ``forward`` put in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


_PLAIN_TYPES = {
    nn.Linear,
    nn.ModuleList,
    MiceAttention,
    MiceRotaryAttention,
    MiceLayerNorm,
    MiceFeedForward,
    MiceGatedFeedForward,
    MiceExactMatch,
    MiceInteractionLayer,
    MicePooler,
    MicePredictionHead,
    MiceClassifier,
    MiceMaxSimResidual,
}
