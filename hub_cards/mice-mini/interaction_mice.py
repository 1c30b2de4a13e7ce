"""The fast path of MICE: one query against many documents, the same scores as ``modeling_mice`` in a fraction of time.

Four observations make it fast, and none changes a score:

- The query is the same for all documents: it is encoded once, and what the first interaction layer computes from the
  query alone is computed once.
- Attention logits are ``(x W_Q)(H W_K)^T = ((x W_Q) W_K^T) H^T``: projecting the few query rows instead of the many
  document tokens ("absorbed") needs no keys and, likewise, no values of the document. It pays while the query is
  short; ``absorbing_pays`` counts the operations of both ways for each query.
- Of the last layer only [CLS] is read, so only that row is computed.
- Nothing is padded: dense layers run on the rows of all documents together, attention on each document's own slice.

It reads weights where the reference calls modules. Where a module is more than its weights (an adapter, a quantised
layer, a hook), on an accelerator, and for joint attention and lexical bias, documents go through the reference in padded
chunks instead: see ``fits_fast_path``.

Shape letters as in ``modeling_mice``, and: n tokens of one document, c documents of a chunk, R rows of a query that
read documents.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_mice import MiceConfig
from .layers_mice import (
    DocumentStates,
    EncodedTexts,
    MiceAttention,
    MiceInteractionLayer,
    is_hooked,
    is_one_of,
    is_plain,
    text_attention_mask,
)

CHUNK_DOCUMENTS = 64  # enough rows that dense layers need not read their weights too often


@torch.no_grad()
def score_documents(model: Any, query: EncodedTexts, documents: Any, chunk_documents: int = CHUNK_DOCUMENTS) -> Tensor:
    """Score one query against many documents.

    Args:
        model: A ``MiceForSequenceClassification`` in evaluation mode.
        query: One contextualised query, a batch of one, on the model's device.
        documents: A sequence of ``DocumentStates`` in any floating dtype, or packed states (anything with ``width``,
            ``lengths``, ``input_ids`` and ``decode(first token, last token, out)``, as ``mice_st.states`` reads them
            from a store). Arithmetic is in the query's dtype.
        chunk_documents: Documents computed together.

    Returns:
        ``(len(documents),)``, float32 logits, in the order of ``documents``.

    Raises:
        ValueError: If a score is not finite, or states are of another width; the message names the positions.
    """
    device = query.states.device
    logits = torch.empty(len(documents), 1, device=device, dtype=torch.float32)
    if not len(documents):
        return logits.squeeze(-1)
    check_width(documents, model.config.state_width)
    with torch.autocast(device.type, enabled=False):
        query = query._replace(states=query.states.to(model.dtype))  # under autocast they may be in another
        prepared = prepare_query(model, query, documents) if fits_fast_path(model, device) else None
        is_empty = torch.zeros(len(documents), device=device, dtype=torch.bool)
        for chunk in iterate_chunks(documents, query.states, chunk_documents):
            scores = score_padded(model, query, chunk) if prepared is None else score_chunk(model, prepared, chunk)
            logits[chunk.positions] = scores
            is_empty[chunk.positions] = empty_documents(chunk, model.config)
        if prepared is not None:
            logits = model.finish(logits, is_empty)
    return logits.squeeze(-1)


def fits_fast_path(model: Any, device: torch.device) -> bool:
    """Whether the interaction layers and the head may be computed from their weights.

    Launching a kernel per document would starve an accelerator: padded batches are its fast layout.
    """
    config = model.config
    if device.type != "cpu" or config.interaction_attention == "joint" or config.lexical_bias or is_hooked(model):
        return False
    names = ("interaction", "final_norm", "pooler", "classifier", "pooled_norm", "max_sim_residual")
    return all(module is None or is_plain(module) for module in (getattr(model, name) for name in names))


# ---------------------------------------------------------------------------------------------------------------- chunks


class Chunk(NamedTuple):
    """Some documents, ready for arithmetic.

    Attributes:
        positions: Where their scores belong.
        states: ``(n, s)`` each, in the compute dtype.
        input_ids: ``(n,)`` each.
    """

    positions: slice
    states: Sequence[Tensor]
    input_ids: Sequence[Tensor]


def check_width(documents: Any, width: int) -> None:
    """Refuse states that another model made.

    Raises:
        ValueError: If states are not ``width`` wide; the message names the first such document.
    """
    widths = [documents.width] if hasattr(documents, "decode") else [len(item.states[0]) for item in documents]
    for place, other in enumerate(widths):
        if other != width:
            raise ValueError(f"document {place}: states of {other} values a token, this model reads {width}.")


def iterate_chunks(documents: Any, like: Tensor, count: int) -> Iterator[Chunk]:
    """Cut documents into chunks of ``count``, in the dtype and on the device of ``like``.

    States in another dtype, or packed, are converted into one buffer, used again for each chunk: converting into fresh
    memory takes ten times as long.
    """
    if hasattr(documents, "decode"):
        yield from _iterate_packed(documents, like, count)
        return
    memory = like.new_empty(0)
    for start in range(0, len(documents), count):
        chunk = documents[start : start + count]
        states = [document.states for document in chunk]
        if any(tensor.dtype != like.dtype or tensor.device != like.device for tensor in states):
            sizes = [tensor.numel() for tensor in states]
            if sum(sizes) > len(memory):
                memory = like.new_empty(sum(sizes))
            parts = memory[: sum(sizes)].split(sizes)
            states = [part.view(tensor.shape).copy_(tensor) for part, tensor in zip(parts, states, strict=True)]
        ids = [document.input_ids.to(like.device) for document in chunk]
        yield Chunk(slice(start, start + len(chunk)), states, ids)


def _iterate_packed(packed: Any, like: Tensor, count: int) -> Iterator[Chunk]:
    """Packed states, decoded chunk by chunk into one buffer."""
    lengths = packed.lengths.tolist()
    ends = [0, *packed.lengths.cumsum(0).tolist()]
    longest = max(ends[min(start + count, len(lengths))] - ends[start] for start in range(0, len(lengths), count))
    buffer = torch.empty(longest, packed.width, dtype=torch.float32)
    for start in range(0, len(lengths), count):
        part = lengths[start : start + count]
        first, last = ends[start], ends[start + len(part)]
        states = packed.decode(first, last, buffer).to(device=like.device, dtype=like.dtype)
        ids = packed.input_ids[first:last].to(like.device)
        yield Chunk(slice(start, start + len(part)), states.split(part), ids.split(part))


def empty_documents(chunk: Chunk, config: MiceConfig) -> Tensor:
    """Which documents hold nothing but special tokens, ``(c,)``, bool."""
    before, after = config.special_tokens("document")
    special = [*before, *after]
    # Only texts this short can be without a word; few are, so that a loop costs nothing.
    is_empty = [len(ids) <= len(special) and set(ids.tolist()) <= set(special) for ids in chunk.input_ids]
    return torch.tensor(is_empty, device=chunk.input_ids[0].device)


# ------------------------------------------------------------------------------------------------------------- the query


class QueryTokens(NamedTuple):
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
    """Everything that the documents of one query share.

    Attributes:
        rows: ``(Q, h)``: the query's rows as the first layer's cross-attention finds them.
        mask: ``(1, 1, Q, Q)``, bool, what the query's rows read of each other.
        encoded: The contextualised query, a batch of one.
        pooled: ``(1, h)``, float32, or None without the pooled residual.
        absorbed: Whether projections are absorbed into the query.
        queries: The projected queries of the first layer's reading rows, ``(R, H, h or d)``; None where exact matches
            change rows per document.
        cls_row: ``(h,)``, [CLS] after the first layer where no document reaches it there, otherwise None.
        max_sim: The tokens that count for late interaction, or None.
    """

    rows: Tensor
    mask: Tensor
    encoded: EncodedTexts
    pooled: Tensor | None
    absorbed: bool
    queries: Tensor | None
    cls_row: Tensor | None
    max_sim: QueryTokens | None


def absorbing_pays(config: MiceConfig, query_tokens: int, document_tokens: float) -> bool:
    """Whether absorbed projections need fewer operations than projecting keys and values, per document and layer.

    Args:
        config: The model's.
        query_tokens: Rows that read the documents.
        document_tokens: Mean tokens of a document.
    """
    width, heads = config.interaction_width, config.interaction_heads
    absorbed = 2 * heads * query_tokens * document_tokens * width + 2 * query_tokens * width * width
    projected = 2 * query_tokens * document_tokens * width + 2 * document_tokens * width * width
    return absorbed < projected


def prepare_query(model: Any, query: EncodedTexts, documents: Any) -> PreparedQuery:
    """Compute once what every document of the query shares."""
    config = model.config
    encoded = EncodedTexts(*(field[:, query.attention_mask[0]] for field in query))
    layer = model.interaction[0]
    rows = model.replace_cls(encoded.states[0])
    tokens = len(rows)
    mask = text_attention_mask(encoded.attention_mask, config.query_attends_cls, config.mask3_frame)
    if layer.self_attention is None and model.reads_cls:
        rows = rows[:1]  # [CLS] learns nothing from the others
    if not layer.cross_first:
        rows = read_query(layer, rows.unsqueeze(0), mask, 1 if layer.is_last else tokens)[0]
    total = (
        documents.lengths.sum().item()
        if hasattr(documents, "decode")
        else sum(len(document.input_ids) for document in documents)
    )
    absorbed = absorbing_pays(config, len(rows), total / len(documents))
    readers = reading_rows(config, tokens, len(rows))
    queries = None
    if layer.exact_match is None and readers.start < readers.stop:
        queries = project_queries(layer, rows[readers], absorbed)
    cls_row = None
    if not (config.cls_attends_document or layer.cross_first):
        blind = rows[:1].unsqueeze(0)
        cls_row = layer.feed_forward(layer.cross_attention.finish(blind, torch.zeros_like(blind)))[0, 0]
    return PreparedQuery(
        rows=rows,
        mask=mask,
        encoded=encoded,
        pooled=model.pool_queries(encoded) if config.pooled_residual else None,
        absorbed=absorbed,
        queries=queries,
        cls_row=cls_row,
        max_sim=None if model.max_sim_residual is None else _max_sim_tokens(model, encoded),
    )


def _max_sim_tokens(model: Any, encoded: EncodedTexts) -> QueryTokens:
    weights = model.max_sim_residual.weigh(encoded)[0]
    rows, counts = model.readable(encoded.states)[0].float(), weights > 0
    return QueryTokens(F.normalize(rows[counts], dim=-1), weights[counts], encoded.input_ids[0, counts])


def reading_rows(config: MiceConfig, tokens: int, rows: int, offset: int = 0) -> slice:
    """Those of ``rows`` rows that read the document; the rows begin at row ``offset`` of the query's ``tokens``."""
    first = 0 if config.cls_attends_document else 1
    end = tokens - 1 if config.mask3_frame else tokens
    start = max(first - offset, 0)
    return slice(start, max(min(end - offset, rows), start))


# ---------------------------------------------------------------------------------------------------------------- scores


def score_padded(model: Any, query: EncodedTexts, chunk: Chunk) -> Tensor:
    """Scores ``(c, 1)`` of a chunk by the reference, each module called: one padded batch."""
    documents = [DocumentStates(*pair) for pair in zip(chunk.states, chunk.input_ids, strict=True)]
    padded = EncodedTexts.pad(documents, query.states.dtype, query.states.device)
    places = torch.zeros(len(documents), dtype=torch.long, device=query.states.device)
    logits: Tensor = model(queries=query.select(places), documents=padded).logits
    return logits


def score_chunk(model: Any, query: PreparedQuery, chunk: Chunk) -> Tensor:
    """Logits ``(c, 1)`` of a chunk of documents, before ``finish``."""
    config = model.config
    count, tokens = len(chunk.states), query.encoded.input_ids.shape[1]
    matched = _average_matches(query.encoded.input_ids[0], chunk, config) if config.exact_match else None
    shared = 0 if query.cls_row is None else 1  # rows that the first layer computes once for all documents
    rows = query.rows[shared:].expand(count, -1, -1)  # (c, Q, h), without the shared row
    for index, layer in enumerate(model.interaction):
        last, first = (1 if layer.is_last else tokens), index == 0
        offset = shared if first else 0
        if not (layer.cross_first or first):
            rows = read_query(layer, rows, query.mask, last)
        if matched is not None:
            rows = layer.add_matches(rows, model.layer_states(matched, index)[:, offset:])
        readers = reading_rows(config, tokens, rows.shape[1], offset)
        queries = query.queries if first else None
        states = _layer_states(model, chunk, index)
        rows = read_documents(layer, rows, readers, states, queries, query.absorbed)
        if layer.cross_first and layer.self_attention is not None:
            rows = read_query(layer, rows, query.mask, last)
        rows = layer.feed_forward(rows)
        if first and query.cls_row is not None:
            rows = torch.cat([query.cls_row.expand(count, 1, -1), rows], dim=1)
    logits = model.head(rows)
    if query.pooled is not None:
        logits = logits + model.residual(query.pooled.expand(count, -1), _pool(model, chunk))
    if query.max_sim is not None:
        logits = logits + _max_sim(model, query.max_sim, chunk)
    return logits


def _layer_states(model: Any, chunk: Chunk, index: int) -> Sequence[Tensor]:
    """The states of each document that layer ``index`` reads, ``(n, h)``; with Mask3's frame that is not its [SEP]."""
    states = chunk.states
    if model.config.document_states == "per_layer":
        states = [model.layer_states(document, index) for document in states]
    return [document[:-1] for document in states] if model.config.mask3_frame else states


def _pool(model: Any, chunk: Chunk) -> Tensor:
    """One pooled vector per document, ``(c, h)``, float32."""
    width = model.config.interaction_width
    if model.config.pooling == "cls":
        pooled = torch.stack([states[0, :width] for states in chunk.states]).float()
    else:
        pooled = torch.stack([states[:, :width].float().mean(0) for states in chunk.states])
    return model.scale_pooled(pooled)


def _max_sim(model: Any, query: QueryTokens, chunk: Chunk) -> Tensor:
    """The MaxSim residual of each document, ``(c, 1)``, float32."""
    residual, count = model.max_sim_residual, len(chunk.states)
    if not len(query.rows):
        return query.rows.new_zeros(count, 1)
    best, means = [], []
    for states, ids in zip(chunk.states, chunk.input_ids, strict=True):
        tokens = model.layer_states(states, 0).float()
        cosines = (query.rows @ tokens.T) / tokens.norm(dim=-1).clamp(min=1e-12)  # (R, n)
        best.append(residual.find_best(cosines, query.input_ids, ids))
        means.append(cosines.amax(0).mean())
    return residual.combine(query.weights, torch.stack(best), torch.stack(means))


def _average_matches(query_ids: Tensor, chunk: Chunk, config: MiceConfig) -> Tensor:
    """As ``layers_mice.average_matches``, ``(c, Q, s)``; only the few tokens that match are touched."""
    device, tokens = query_ids.device, len(query_ids)
    matches = query_ids.unsqueeze(1) == torch.cat(list(chunk.input_ids))  # (Q, sum of n)
    matches &= ~is_one_of(query_ids, config.unmatched_ids).unsqueeze(1)
    count, slices = len(chunk.states), chunk.states
    lengths = torch.tensor([len(states) for states in slices], device=device)
    owner = torch.repeat_interleave(torch.arange(count, device=device), lengths)
    row, token = matches.nonzero(as_tuple=True)
    target = owner[token] * tokens + row
    sums = slices[0].new_zeros(count * tokens, slices[0].shape[1])
    sums.index_add_(0, target, torch.cat(list(slices))[token])
    counts = torch.bincount(target, minlength=count * tokens).clamp(min=1).to(sums.dtype)
    return (sums / counts.unsqueeze(1)).view(count, tokens, -1)


# ------------------------------------------------------------------------------------------------------------- attention


def read_query(layer: MiceInteractionLayer, rows: Tensor, mask: Tensor, count: int) -> Tensor:
    """Query self-attention, rows ``(c, Q, h)`` to the first ``count`` of them; ``mask`` is ``(1, 1, Q, Q)``."""
    attention = layer.self_attention
    if count > 1 or type(attention) is not MiceAttention:  # positions cannot be absorbed
        return layer.read_query(rows, mask, count)
    # [CLS] alone, which reads all rows.
    queries = _absorb_keys(attention, _split_queries(attention, rows[:, 0]))  # (c, H, h)
    means = (queries @ rows.transpose(1, 2)).softmax(-1) @ rows  # (c, H, h)
    return attention.finish(rows[:, :1], _project_values(attention, means).unsqueeze(1))


def read_documents(
    layer: MiceInteractionLayer,
    rows: Tensor,
    readers: slice,
    states: Sequence[Tensor],
    queries: Tensor | None,
    absorbed: bool,
) -> Tensor:
    """Cross-attention of the rows of c documents, each with its own.

    Args:
        layer: The interaction layer.
        rows: ``(c, Q, h)``.
        readers: Those of them that read; nothing is added to the others but what attention gives for nothing.
        states: ``(n, h)`` each; a document may be without a token to read.
        queries: The projected queries, ``(R, H, h or d)``, where they are the same for all documents.
        absorbed: Whether projections are absorbed into the queries.

    Returns:
        ``(c, Q, h)``.
    """
    attention, count = layer.cross_attention, len(states)
    context = rows.new_zeros(rows.shape)
    if readers.start < readers.stop:
        if queries is None:
            reading = rows[:, readers]
            queries = project_queries(layer, reading.flatten(0, 1), absorbed).unflatten(0, reading.shape[:2])
        else:
            queries = queries.expand(count, *queries.shape)  # (c, R, H, h or d)
        attend = _attend_absorbed if absorbed else _attend_projected
        context[:, readers] = attend(layer, queries, states)
        for place, document in enumerate(states):
            if not len(document):
                context[place] = 0.0  # nothing to read gives nothing, not even the value's bias
    return attention.finish(rows, context)


def project_queries(layer: MiceInteractionLayer, rows: Tensor, absorbed: bool) -> Tensor:
    """Project rows ``(r, h)`` for the documents: ``(r, H, d)``, or with the keys' projection absorbed ``(r, H, h)``; scaled."""
    attention = layer.cross_attention
    queries = _split_queries(attention, layer.normalise(rows))
    if not absorbed:
        return queries
    queries = _absorb_keys(attention, queries)
    # A pre-norm layer's scale of the states; its shift moves all logits of a row alike, which softmax does not see.
    return queries if layer.attention_norm is None else queries * layer.attention_norm.weight


def _split_queries(attention: MiceAttention, rows: Tensor) -> Tensor:
    """Scaled queries of rows ``(r, h)``: ``(r, H, d)``."""
    queries = attention.query(rows).unflatten(-1, (attention.heads, -1))
    return queries * (1.0 / math.sqrt(queries.shape[-1]))


def _absorb_keys(attention: MiceAttention, queries: Tensor) -> Tensor:
    """Queries ``(r, H, d)`` times the keys' weight: ``(r, H, h)``. The key's bias adds the same to all logits of a row."""
    heads = queries.shape[1]
    weight = attention.key.weight.unflatten(0, (heads, -1))  # (H, d, h)
    absorbed = queries.new_empty(len(queries), heads, weight.shape[-1])
    for head in range(heads):
        torch.mm(queries[:, head], weight[head], out=absorbed[:, head])
    return absorbed


def _project_values(attention: MiceAttention, means: Tensor) -> Tensor:
    """Per head, the mean of states ``(r, H, h)`` to the mean of values: context ``(r, h)``."""
    heads = means.shape[1]
    weight, bias = attention.value.weight.unflatten(0, (heads, -1)), attention.value.bias
    context = means.new_empty(len(means), heads, weight.shape[1])
    for head in range(heads):
        torch.mm(means[:, head], weight[head].t(), out=context[:, head])
    context = context.flatten(1)
    return context if bias is None else context + bias


def _attend_absorbed(layer: MiceInteractionLayer, queries: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Absorbed queries ``(c, R, H, h)`` over document states ``(n, h)``: context ``(c, R, h)``."""
    count, rows, heads, width = queries.shape
    means = queries.new_empty(count, rows * heads, width)
    for place, document in enumerate(states):
        logits = torch.mm(queries[place].reshape(rows * heads, width), document.t())
        torch.mm(logits.softmax(-1), document, out=means[place])
    means = layer.normalise(means.view(count * rows, heads, width), is_normalised=True)
    return _project_values(layer.cross_attention, means).view(count, rows, -1)


def _attend_projected(layer: MiceInteractionLayer, queries: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Queries ``(c, R, H, d)`` over the keys and values of documents ``(n, h)``: context ``(c, R, h)``."""
    attention, contexts = layer.cross_attention, []
    for place, document in enumerate(states):
        read = layer.normalise(document, is_normalised=True)
        key, value = (attention.split_heads(projection(read)) for projection in (attention.key, attention.value))
        query = queries[place].transpose(0, 1)  # (H, R, d)
        context = F.scaled_dot_product_attention(query[None], key[None], value[None], scale=1.0)[0]
        contexts.append(context.transpose(0, 1).flatten(1))
    return torch.stack(contexts)
