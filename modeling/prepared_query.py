"""What all documents of one query share on the fast path, computed once: see ``interaction.py``."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .attention import MiceAttention, text_attention_mask
from .fast_attention import ask, self_attend
from .layers import MiceInteractionLayer
from .states import EncodedTexts


class AskingTokens(NamedTuple):
    """The tokens of a query that late interaction compares with documents: all but the special ones.

    Attributes:
        rows: ``(R, h)``, float32, of length 1.
        weights: ``(R,)``, float32, what each counts.
        input_ids: ``(R,)``, int64.
    """

    rows: Tensor
    weights: Tensor
    input_ids: Tensor


class PreparedQuery(NamedTuple):
    """What the documents of one query share.

    Attributes:
        rows: ``(Q, h)``: the query's rows as the first layer's cross-attention finds them.
        mask: ``(Q, Q)``, bool, what the query's rows read of each other.
        encoded: The contextualised query, a batch of one.
        pooled: ``(1, h)``, float32, or None without the pooled residual.
        absorbed: Whether projections are absorbed into the query.
        asking: What the rows that read documents in the first layer ask with; None where exact matches change rows per
            document.
        cls_row: ``(h,)``, [CLS] after the first layer where no document reaches it there, otherwise None.
        max_sim: The query's tokens that count for late interaction, or None.
    """

    rows: Tensor
    mask: Tensor
    encoded: EncodedTexts
    pooled: Tensor | None
    absorbed: bool
    asking: Tensor | None
    cls_row: Tensor | None
    max_sim: AskingTokens | None


def absorbing_pays(config: Any, query_tokens: int, document_tokens: float) -> bool:
    """Whether absorbed projections need fewer operations than projecting keys and values, per document and layer.

    Args:
        config: The model's config.
        query_tokens: Rows that ask.
        document_tokens: Mean tokens of a document.
    """
    width, heads = config.interaction_width, config.interaction_heads
    absorbed = 2 * heads * query_tokens * document_tokens * width + 2 * query_tokens * width * width
    key_value_width = width * config.key_value_heads // heads
    projected = 2 * query_tokens * document_tokens * width + 2 * document_tokens * width * key_value_width
    return absorbed < projected


def prepare_query(model: Any, query: EncodedTexts, document_tokens: float | None) -> PreparedQuery:
    """Compute once what every document of the query shares.

    Args:
        model: A ``MiceForSequenceClassification``.
        query: One contextualised query.
        document_tokens: Mean tokens of the documents to come, which decides whether absorbing pays; None where their
            keys and values are stored, so that it does not.
    """
    config = model.config
    encoded = EncodedTexts(*(field[:, query.attention_mask[0]] for field in query))
    layer = model.interaction[0]
    rows = model.replace_cls(encoded.states[0])
    mask = text_attention_mask(encoded.attention_mask, config.query_attends_cls, config.sep_attends_itself_alone)[0, 0]
    kept = 1 if layer.is_last else len(rows)
    if layer.self_attention is None and config.head_pooling == "cls":
        rows = rows[:1]  # [CLS] learns nothing from the others
    if not layer.cross_first:
        rows = self_attend(layer.self_attention, rows.unsqueeze(0), kept, mask)[0]
    absorbed = document_tokens is not None and absorbing_pays(config, len(rows), document_tokens)
    asks = asking_rows(config, len(mask), len(rows))
    asking = None
    if layer.exact_match is None:
        asked = rows[:kept] if layer.cross_attention is None else rows[asks]
        asking = ask(reading_attention(layer), asked, absorbed) if len(asked) else None
    pooled = model.pool_queries(encoded) if config.pooled_residual else None
    cls_row = None
    if not (config.cls_attends_document or layer.cross_first):
        cls_row = layer.feed_forward(layer.cross_attention.finish(rows[:1], None))[0]
    max_sim = None if model.max_sim_residual is None else _seek_alike(model, encoded)
    return PreparedQuery(rows, mask, encoded, pooled, absorbed, asking, cls_row, max_sim)


def asking_rows(config: Any, tokens: int, rows: int, offset: int = 0) -> slice:
    """Those of ``rows`` rows that read the document; the rows begin at row ``offset`` of the query's ``tokens``."""
    first = 0 if config.cls_attends_document else 1
    end = tokens - 1 if config.sep_attends_itself_alone else tokens
    start = max(first - offset, 0)
    return slice(start, max(min(end - offset, rows), start))


def reading_attention(layer: MiceInteractionLayer) -> MiceAttention:
    """The attention of a layer that reads documents."""
    return layer.self_attention if layer.cross_attention is None else layer.cross_attention


def _seek_alike(model: Any, encoded: EncodedTexts) -> AskingTokens:
    """What ``PreparedQuery.max_sim`` holds."""
    weights = model.max_sim_residual.weigh(encoded)[0]
    rows = model.readable(encoded.states)[0].float()
    counts = weights > 0
    return AskingTokens(F.normalize(rows[counts], dim=-1), weights[counts], encoded.input_ids[0, counts])
