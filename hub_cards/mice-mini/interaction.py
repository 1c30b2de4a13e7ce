"""The fast path of MICE: one query against many documents, the same scores as ``modeling_mice`` in a fraction of time.

Four observations make it fast, and none changes a score:

- The query is the same for all documents: it is encoded once, and what the first interaction layer computes from the
  query alone is computed once.
- Attention logits are ``(x W_Q)(H W_K)^T = ((x W_Q) W_K^T) H^T``: projecting the few query rows instead of the many
  document tokens ("absorbed") needs no keys and, likewise, no values of the document. It pays while the query is
  short; ``absorbing_pays`` counts the operations of both ways for each query.
- Of the last layer only [CLS] is read, so only that row is computed.
- Nothing is padded: dense layers run on the rows of all documents together, attention on each document's own slice.

Shape letters as in ``modeling_mice``, and: n tokens of one document, c documents of a chunk, R rows of a query that
ask, d = h / H.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .chunks import Chunk, check_width, is_packed, iterate_chunks, mean_tokens
from .fast_attention import (
    LayerDocuments,
    keys_values,
    read_documents,
    read_jointly,
    self_attend,
    stored_keys_values,
)
from .layers import MiceInteractionLayer
from .prepared_query import AskingTokens, PreparedQuery, asking_rows, prepare_query, reading_attention
from .states import DocumentStates, EncodedTexts

CHUNK_DOCUMENTS = 64  # enough rows that dense layers need not read their weights too often


@torch.inference_mode()
def score_documents(model: Any, query: EncodedTexts, documents: Any, chunk_documents: int = CHUNK_DOCUMENTS) -> Tensor:
    """Score one query against many documents.

    Args:
        model: A ``MiceForSequenceClassification`` in evaluation mode.
        query: One contextualised query, a batch of one, on the model's device.
        documents: A sequence of ``DocumentStates`` in any floating dtype, or packed states (anything with ``lengths``,
            ``input_ids`` and ``decode(first token, last token, out)``, as ``mice_st.states`` reads them from a store).
            Arithmetic is in the model's dtype.
        chunk_documents: Documents computed together.

    Returns:
        ``(len(documents),)``, float32 logits, in the order of ``documents``.

    Raises:
        ValueError: If a score is not finite, or states are of another width; the message names the positions.
    """
    query = query._replace(states=query.states.to(model.dtype))  # under autocast they may be in another
    with torch.autocast(query.states.device.type, enabled=False):
        return _score_documents(model, query, documents, chunk_documents)


def _score_documents(model: Any, query: EncodedTexts, documents: Any, chunk_documents: int) -> Tensor:
    logits = torch.empty(len(documents), 1, device=query.states.device)
    if not len(documents):
        return logits.squeeze(-1)
    check_width(documents, model.config.state_width)
    if query.states.device.type != "cpu":
        # Launching a kernel per document would starve an accelerator: padded batches are its fast layout.
        for chunk in iterate_chunks(documents, query.states, chunk_documents):
            parts = [DocumentStates(*pair) for pair in zip(chunk.states, chunk.input_ids, strict=True)]
            padded = EncodedTexts.pad(parts, query.states.dtype, logits.device)
            places = torch.zeros(len(parts), dtype=torch.long, device=logits.device)
            logits[chunk.positions] = model.score(query.select(places), padded)
        return logits.squeeze(-1)
    has_keys = not is_packed(documents) and all(document.keys_values is not None for document in documents)
    prepared = prepare_query(model, query, None if has_keys else mean_tokens(documents))
    for chunk in iterate_chunks(documents, query.states, chunk_documents):
        logits[chunk.positions] = _score_chunk(model, prepared, chunk)
    model.check_finite(logits)
    return logits.squeeze(-1)


def project_documents(model: Any, documents: Sequence[DocumentStates], dtype: torch.dtype) -> list[DocumentStates]:
    """Project every document's keys and values of every layer beforehand, for small corpora that are asked often.

    Args:
        model: The ``MiceForSequenceClassification`` that will score.
        documents: Document states.
        dtype: Precision to keep keys and values in.

    Returns:
        The documents with ``keys_values``: ``2 * interaction layers`` times the states' bytes more.
    """
    projected = []
    with torch.inference_mode():
        for document in documents:
            states = document.states.to(device=model.device, dtype=model.dtype)
            pairs = [
                torch.stack(keys_values(reading_attention(layer), model.layer_states(states, index)))
                for index, layer in enumerate(model.interaction)
            ]
            stacked = torch.stack(pairs)  # (k, 2, H, n, d)
            projected.append(DocumentStates(document.states, document.input_ids, stacked.to(dtype).contiguous()))
    return projected


def _score_chunk(model: Any, query: PreparedQuery, chunk: Chunk) -> Tensor:
    """Logits ``(c, 1)`` of a chunk of documents."""
    config = model.config
    count, tokens = len(chunk.states), query.encoded.input_ids.shape[1]
    matches = matched = is_matched = None
    if config.exact_match or config.match_residual or config.lexical_bias:
        matches = _exact_matches(query.encoded.input_ids[0], chunk, config)
    if matches is not None and (config.exact_match or config.match_residual):
        matched, is_matched = _average_matches(matches, chunk)
    shared = 0 if query.cls_row is None else 1  # rows that the first layer computes once for all documents
    rows = query.rows[shared:].expand(count, -1, -1)  # (c, Q, h), without the shared row
    for index, layer in enumerate(model.interaction):
        kept = 1 if layer.is_last else tokens
        first = index == 0
        offset = shared if first else 0
        if not (layer.cross_first or first):
            rows = self_attend(layer.self_attention, rows, kept, query.mask)
        if layer.exact_match is not None and matched is not None:
            rows = rows + layer.exact_match(model.layer_states(matched, index)[:, offset : offset + rows.shape[1]])
        asking = query.asking if first else None
        documents = _layer_documents(model, chunk, index, query.absorbed)
        asks = asking_rows(config, tokens, rows.shape[1] if layer.cross_attention is not None else kept, offset)
        if matches is not None and layer.lexical_bias is not None:
            documents = documents._replace(biases=_biases(layer, matches, chunk, documents, asks, offset))
        if layer.cross_attention is None:
            rows = read_jointly(layer.self_attention, rows, kept, query.mask, asks, documents, asking)
        else:
            rows = read_documents(layer.cross_attention, rows, asks, documents, asking)
            if layer.cross_first and layer.self_attention is not None:
                rows = self_attend(layer.self_attention, rows, kept, query.mask)
        rows = layer.feed_forward(rows)
        if first and query.cls_row is not None:
            rows = torch.cat([query.cls_row.expand(count, 1, -1), rows], dim=1)
    return model.head(model.read_out(rows)) + _residuals(model, query, chunk, matched, is_matched)


def _residuals(
    model: Any, query: PreparedQuery, chunk: Chunk, matched: Tensor | None, is_matched: Tensor | None
) -> Tensor:
    """What adds to the head's score, ``(c, 1)``, float32; zeros where the model has no residual."""
    count = len(chunk.states)
    total = torch.zeros(count, 1, device=query.rows.device)
    if query.pooled is not None:
        pooled = model.scale_pooled(_pool(model.config, chunk.states))
        total = total + model.residual(query.pooled.expand(count, -1), pooled)
    if model.match_residual is not None:
        states = model.readable(query.encoded.states).expand(count, -1, -1)
        total = total + model.match_residual(states, model.layer_states(matched, 0), is_matched)
    if query.max_sim is not None:
        total = total + _late_interaction(model, query.max_sim, chunk)
    return total


def _late_interaction(model: Any, asking: AskingTokens, chunk: Chunk) -> Tensor:
    """The MaxSim residual of each document, ``(c, 1)``, float32."""
    residual, count = model.max_sim_residual, len(chunk.states)
    if not len(asking.rows):
        return asking.rows.new_zeros(count, 1)
    best, means = [], []
    for states, ids in zip(chunk.states, chunk.input_ids, strict=True):
        tokens = model.layer_states(states, 0).float()
        cosines = (asking.rows @ tokens.T) / tokens.norm(dim=-1).clamp(min=1e-12)  # (R, n)
        best.append(residual.find_best(cosines, asking.input_ids.unsqueeze(1) == ids))
        means.append(cosines.amax(0).mean())
    return residual.combine(asking.weights, torch.stack(best), torch.stack(means))


def _layer_documents(model: Any, chunk: Chunk, index: int, absorbed: bool) -> LayerDocuments:
    """What layer ``index`` reads of a chunk."""
    attention = reading_attention(model.interaction[index])
    states = chunk.states
    if model.config.document_states == "per_layer":
        states = [model.layer_states(document, index) for document in states]
    reads_sep = model.config.query_attends_document_sep
    if not reads_sep:
        states = [document[:-1] for document in states]
    if absorbed:
        return LayerDocuments(states, None)
    if chunk.keys_values is None:
        return LayerDocuments(states, (keys_values(attention, document) for document in states))
    pairs = stored_keys_values(chunk.keys_values, index, chunk.states[0])
    if not reads_sep:
        pairs = ((key[:, :-1], value[:, :-1]) for key, value in pairs)
    return LayerDocuments(states, pairs)


def _pool(config: Any, slices: Sequence[Tensor]) -> Tensor:
    """One pooled vector per document, ``(c, h)``, float32."""
    width = config.interaction_width
    if config.pooling == "cls":
        return torch.stack([states[0, :width] for states in slices]).float()
    return torch.stack([states[:, :width].float().mean(0) for states in slices])


def _exact_matches(query_ids: Tensor, chunk: Chunk, config: Any) -> Tensor:
    """As ``residuals.exact_matches``: ``(Q, sum of n)``, bool."""
    special = torch.tensor([config.cls_token_id, config.sep_token_id], device=query_ids.device)
    return (query_ids.unsqueeze(1) == torch.cat(chunk.input_ids)) & ~torch.isin(query_ids, special).unsqueeze(1)


def _average_matches(matches: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """As ``residuals.average_matches``: ``(c, Q, s)`` and ``(c, Q)``; only the few tokens that match are touched."""
    device, tokens = matches.device, len(matches)
    count, slices = len(chunk.states), chunk.states
    lengths = torch.tensor([len(states) for states in slices], device=device)
    owner = torch.repeat_interleave(torch.arange(count, device=device), lengths)
    row, token = matches.nonzero(as_tuple=True)
    target = owner[token] * tokens + row
    counts = torch.zeros(count * tokens, device=device).index_add_(0, target, torch.ones(len(target), device=device))
    sums = slices[0].new_zeros(len(counts), slices[0].shape[1])
    sums.index_add_(0, target, torch.cat(slices)[token])
    averages = sums / counts.clamp(min=1.0).to(sums.dtype).unsqueeze(1)
    return averages.view(count, tokens, -1), counts.view(count, tokens) > 0


def _biases(
    layer: MiceInteractionLayer, matches: Tensor, chunk: Chunk, documents: LayerDocuments, asks: slice, offset: int
) -> list[Tensor]:
    """Lexical bias of the rows that ask, ``(R, H, n)`` per document; the rows begin at row ``offset`` of the query's."""
    asking = matches[asks.start + offset : asks.stop + offset]
    parts = asking.split([len(ids) for ids in chunk.input_ids], dim=1)
    return [
        part[:, None, : len(states)] * layer.lexical_bias[:, None]
        for part, states in zip(parts, documents.states, strict=True)
    ]
