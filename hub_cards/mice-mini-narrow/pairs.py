"""Pair encodings, as any tokenizer of the backbone makes them, cut into queries and documents: MICE encodes both apart."""

from typing import Any

import torch
from torch import Tensor, nn


def split_pairs(
    config: Any, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cut pair encodings ``(B, L)`` into queries and documents, each ``(input_ids, attention_mask)``.

    Each side is cut to its own maximum length and keeps its [SEP]; the document gets a [CLS] of its own, unless
    ``document_cls`` is False.

    Args:
        config: A ``MiceConfig``.
        input_ids: ``(B, L)``, int64.
        attention_mask: ``(B, L)``; all ones where it is None.

    Raises:
        ValueError: If a row does not start with [CLS] or its [SEP] are not where they belong; names the row.
    """
    cls_id, sep_id, between = config.cls_token_id, config.sep_token_id, config.pair_separators
    form = f"[CLS] query {' '.join(['[SEP]'] * between)} document [SEP]"
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    queries, documents = [], []
    for row, (ids, mask) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
        tokens = ids[mask]
        separators = (tokens == sep_id).nonzero().flatten().tolist()
        has_form = len(separators) > between and tokens[0] == cls_id and separators[-1] == len(tokens) - 1
        if not has_form or separators[between - 1] != separators[0] + between - 1:
            raise ValueError(f"input_ids: row {row} is not of the form {form}.")
        query, document = tokens[1 : separators[0]], tokens[separators[0] + between : -1]
        queries.append(_frame(config, query, "query", config.query_max_length))
        documents.append(_frame(config, document, "document", config.document_max_length))
    return _pad(queries), _pad(documents)


def _frame(config: Any, tokens: Tensor, side: str, max_length: int) -> Tensor:
    before, after = map(tokens.new_tensor, config.special_tokens(side))
    return torch.cat([before, tokens[: max_length - len(before) - len(after)], after])


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return ids, torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
