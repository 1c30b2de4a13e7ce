"""Attention of the fast path: a few query rows against each document's own slice, projections absorbed or made.

Every function here computes what ``layers.MiceAttention`` does, for one query and the documents of a chunk. Shape letters
as in ``interaction.py``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import MiceAttention
from .chunks import ConversionBuffer


class LayerDocuments(NamedTuple):
    """What one interaction layer reads of the documents of a chunk.

    Attributes:
        states: ``(n, h)`` each, the tokens that may be read.
        keys_values: Keys and values ``(H, n, d)`` of each, in fewer heads where these are shared; None where projections
            are absorbed into the query.
        biases: ``(R, H, n)`` each, added to the logits of the R rows that ask; None for nothing.
    """

    states: Sequence[Tensor]
    keys_values: Iterable[tuple[Tensor, Tensor]] | None
    biases: Sequence[Tensor] | None = None


def read_documents(
    attention: MiceAttention, rows: Tensor, asks: slice, documents: LayerDocuments, asking: Tensor | None
) -> Tensor:
    """Cross-attention: rows ``(c, R, h)``, of which those in ``asks`` read the documents, to the same.

    ``asking`` is what these rows ask with, ``(R, H, h or d)`` from ``ask``, where it is the same for all documents.
    """
    count, asked = rows.shape[0], asks.stop - asks.start
    context = rows.new_zeros(rows.shape)
    if asked:
        is_absorbed = documents.keys_values is None
        if asking is None:
            asking = ask(attention, rows[:, asks].reshape(count * asked, -1), is_absorbed)
            asking = asking.view(count, asked, *asking.shape[1:])
        else:
            asking = asking.expand(count, *asking.shape)
        if documents.keys_values is None:
            context[:, asks] = _attend_absorbed(attention, asking, documents)
        else:
            context[:, asks] = _attend_projected(asking, documents.keys_values, documents.biases)
        for place, states in enumerate(documents.states):
            if not len(states):
                context[place] = 0.0  # nothing to read gives nothing, not even the value's bias
    return attention.finish(rows, context)


def read_jointly(
    attention: MiceAttention,
    rows: Tensor,
    kept: int,
    mask: Tensor,
    asks: slice,
    documents: LayerDocuments,
    asking: Tensor | None,
) -> Tensor:
    """Joint attention: rows ``(c, Q, h)`` read themselves and the documents in one softmax; ``(c, kept, h)``.

    Args:
        attention: The layer's self-attention.
        rows: All of the query's rows.
        kept: How many of them are wanted, from the first on.
        mask: ``(Q, Q)``, bool, what the query's rows read of each other.
        asks: Those of the kept rows that read the documents.
        documents: What they read.
        asking: What the kept rows ask with, ``(kept, H, h or d)``, where it is the same for all documents.
    """
    count, _, hidden = rows.shape
    if asking is None:
        asking = ask(attention, rows[:, :kept].reshape(count * kept, hidden), documents.keys_values is None)
        asking = asking.view(count, kept, *asking.shape[1:])
    else:
        asking = asking.expand(count, *asking.shape)
    if documents.keys_values is None:
        context = _attend_jointly_absorbed(attention, asking, rows, mask[:kept], asks, documents)
    else:
        context = _attend_jointly_projected(attention, asking, rows, mask[:kept], asks, documents)
    return attention.finish(rows[:, :kept], context)


def stored_keys_values(stored: Sequence[Tensor], index: int, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values ``(H, n, d)`` of layer ``index``, converted document by document while they stay in the cache."""
    buffer = ConversionBuffer(like)
    for document in stored:
        (pair,) = buffer.convert([document[index]])
        yield pair[0], pair[1]


def keys_values(attention: MiceAttention, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values ``(H, n, d)`` of one document's states ``(n, h)``, in fewer heads where these are shared."""
    states = attention.prepare_states(states)
    key, value = attention.key(states), attention.value(states)
    split = (attention.key_value_heads, -1)
    return key.unflatten(-1, split).transpose(0, 1), value.unflatten(-1, split).transpose(0, 1)


def ask(attention: MiceAttention, rows: Tensor, absorbed: bool) -> Tensor:
    """Project rows ``(r, h)`` to what meets the documents: absorbed ``(r, H, h)``, otherwise ``(r, H, d)``, scaled."""
    heads = attention.heads
    width = rows.shape[-1] // heads
    query = attention.query(attention.prepare_rows(rows)).mul_(1.0 / math.sqrt(width))
    if not absorbed:
        return query.unflatten(-1, (heads, width))
    # The key's bias adds the same to all logits of a row: softmax does not see it.
    key = attention.key.weight
    asking = query.new_empty(len(rows), heads, key.shape[1])
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        torch.mm(query[:, part], key[_key_value_rows(attention, head)], out=asking[:, head])
    return attention.absorb_scale(asking)


def _key_value_rows(attention: MiceAttention, head: int) -> slice:
    """Where the keys and values of a head of queries are among the projection's rows."""
    width = attention.query.out_features // attention.heads
    place = head * attention.key_value_heads // attention.heads
    return slice(place * width, (place + 1) * width)


def _attend_absorbed(attention: MiceAttention, asking: Tensor, documents: LayerDocuments) -> Tensor:
    """Attention of ``asking`` ``(c, R, H, h)`` over document states ``(n, h)``: context ``(c, R, h)``."""
    count, asked, heads, hidden = asking.shape
    means = asking.new_empty(count, asked * heads, hidden)
    for place, states in enumerate(documents.states):
        logits = torch.mm(asking[place].reshape(asked * heads, hidden), states.t())
        if documents.biases is not None:
            logits += documents.biases[place].flatten(0, 1)
        torch.mm(logits.softmax(-1), states, out=means[place])
    return _project_values(attention, means.view(count, asked, heads, hidden))


def _project_values(attention: MiceAttention, means: Tensor) -> Tensor:
    """Per head, the mean of states ``(c, R, H, h)`` to the mean of values: context ``(c, R, h)``."""
    count, asked, heads, hidden = means.shape
    width = hidden // heads
    means = attention.prepare_states(means.view(count * asked, heads, hidden))
    context = means.new_empty(count * asked, hidden)
    weight, bias = attention.value.weight, attention.value.bias
    for head in range(heads):
        part, rows = slice(head * width, (head + 1) * width), _key_value_rows(attention, head)
        if bias is None:
            torch.mm(means[:, head], weight[rows].t(), out=context[:, part])
        else:
            torch.addmm(bias[rows], means[:, head], weight[rows].t(), out=context[:, part])
    return context.view(count, asked, hidden)


def _attend_projected(
    asking: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], biases: Sequence[Tensor] | None
) -> Tensor:
    """Attention of ``asking`` ``(c, R, H, d)`` over keys and values ``(H, n, d)`` per document: context ``(c, R, h)``."""
    contexts = []
    _, asked, heads, width = asking.shape
    for place, (key, value) in enumerate(pairs):
        # Heads that share keys stand as further rows of one head.
        rows = asked * heads // len(key)
        query = asking[place].transpose(0, 1).reshape(len(key), rows, width)  # (H, R, d)
        bias = None if biases is None else biases[place].transpose(0, 1).reshape(1, len(key), rows, key.shape[1])
        context = F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=bias, scale=1.0)[0]
        contexts.append(context.reshape(heads, asked, width).transpose(0, 1).flatten(1))
    return torch.stack(contexts)


def _attend_jointly_absorbed(
    attention: MiceAttention, asking: Tensor, rows: Tensor, mask: Tensor, asks: slice, documents: LayerDocuments
) -> Tensor:
    """``asking`` ``(c, R, H, h)`` over rows ``(c, Q, h)`` and, for those in ``asks``, documents ``(n, h)``: ``(c, R, h)``."""
    count, asked, heads, hidden = asking.shape
    tokens = rows.shape[1]
    own = (asking.flatten(1, 2) @ rows.transpose(1, 2)).unflatten(1, (asked, heads))  # (c, R, H, Q)
    own.masked_fill_(~mask.unsqueeze(1), -torch.inf)
    means = rows.new_empty(count, asked, heads, hidden)
    others = [row for row in range(asked) if not asks.start <= row < asks.stop]
    if others:
        means[:, others] = (own[:, others].softmax(-1).flatten(1, 2) @ rows).unflatten(1, (len(others), heads))
    for place, states in enumerate(documents.states if asks.start < asks.stop else []):
        logits = asking[place, asks].flatten(0, 1) @ states.t()
        if documents.biases is not None:
            logits += documents.biases[place].flatten(0, 1)
        weights = torch.cat([own[place, asks].flatten(0, 1), logits], dim=-1).softmax(-1)  # (R H, Q + n)
        mean = weights[:, tokens:] @ states
        means[place, asks] = mean.addmm_(weights[:, :tokens], rows[place]).unflatten(0, (-1, heads))
    return _project_values(attention, means)


def _attend_jointly_projected(
    attention: MiceAttention, asking: Tensor, rows: Tensor, mask: Tensor, asks: slice, documents: LayerDocuments
) -> Tensor:
    """As ``_attend_jointly_absorbed``, with ``asking`` ``(c, R, H, d)`` and the documents' keys and values."""
    contexts = []
    own = torch.zeros(mask.shape, device=mask.device, dtype=rows.dtype).masked_fill_(~mask, -torch.inf)  # (R, Q)
    for place, (key, value) in enumerate(documents.keys_values or []):
        own_key, own_value = keys_values(attention, rows[place])
        bias = own.new_full((len(own_key), len(mask), key.shape[1]), -torch.inf)  # (H, R, n)
        bias[:, asks] = 0.0 if documents.biases is None else documents.biases[place].transpose(0, 1)
        context = F.scaled_dot_product_attention(
            asking[place].transpose(0, 1)[None],
            torch.cat([own_key, key], dim=1)[None],
            torch.cat([own_value, value], dim=1)[None],
            attn_mask=torch.cat([own.expand(len(bias), -1, -1), bias], dim=-1)[None],
            scale=1.0,
        )[0]  # (H, R, d)
        contexts.append(context.transpose(0, 1).flatten(1))
    return torch.stack(contexts)


def self_attend(attention: MiceAttention, rows: Tensor, kept: int, mask: Tensor) -> Tensor:
    """Query self-attention, rows ``(c, Q, h)`` to the first ``kept`` of them, ``(c, kept, h)``; ``mask`` is ``(Q, Q)``."""
    if kept == 1 and not attention.has_positions:
        return _self_attend_cls(attention, rows)
    return attention(rows[:, :kept], rows, mask[None, None, :kept])


def _self_attend_cls(attention: MiceAttention, rows: Tensor) -> Tensor:
    """[CLS] alone reads all rows ``(c, Q, h)``, absorbed: ``(c, 1, h)``."""
    count, _, hidden = rows.shape
    asking = ask(attention, rows[:, 0], absorbed=True)  # (c, H, h)
    means = (asking @ rows.transpose(1, 2)).softmax(-1) @ rows  # (c, H, h)
    value = attention.value.weight.unflatten(0, (attention.heads, -1))  # (H, d, h)
    context = torch.einsum("cih,idh->cid", means, value).reshape(count, hidden) + attention.value.bias
    return attention.finish(rows[:, :1], context.unsqueeze(1))
