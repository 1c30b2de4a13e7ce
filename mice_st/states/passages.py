"""Long documents: cut into overlapping passages that are kept side by side as one document, and scored by the best of them.

The passages of a document share its id and its row: ``[CLS] first [SEP] [CLS] second [SEP] ...``. A document's own text can never make a
[SEP], so these mark where passages end, a changed document is replaced in one step, and no id of a passage can clash with a user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mice_st.modeling.interaction_mice import score_documents
from mice_st.modeling.layers_mice import DocumentStates, EncodedTexts
from mice_st.modeling.st_mice import MiceTransformer, check_text

from .packed import PackedStates


def check_overlap(module: MiceTransformer, overlap: int | None) -> int:
    """The tokens that neighbouring passages share.

    Args:
        module: The model; a passage is as long as its longest document.
        overlap: Tokens, or None for a quarter of a passage.

    Raises:
        ValueError: If it is negative, or leaves no new token for the next passage.
    """
    room = _room(module)
    if overlap is None:
        return room // 4
    if not 0 <= overlap < room:
        raise ValueError(f"overlap: must lie between 0 and {room - 1} tokens, got {overlap}.")
    return overlap


def _room(module: MiceTransformer) -> int:
    """Tokens of text in a passage, beside its special tokens."""
    config = module.model.config
    return config.document_max_length - sum(map(len, config.special_tokens("document")))


def tokenize_documents(
    module: MiceTransformer,
    texts: Sequence[str],
    overlap: int | None,
    names: Sequence[str] | None = None,
    max_length: int | None = None,
) -> list[list[list[int]]]:
    """Token ids of each passage of each document.

    Args:
        module: Tokenizer and maximum length.
        texts: Documents, ``(n,)``.
        overlap: Tokens that neighbouring passages share; None cuts documents at the maximum length instead.
        names: What an error calls each text; its position where it is left out.
        max_length: Longest document, in tokens, where documents are cut; None takes the config's.

    Returns:
        For each document its passages, their special tokens included; all but a document's last have the maximum length.

    Raises:
        ValueError: If a text is not a string or holds a lone surrogate; names the text.
    """
    if overlap is None:
        return [[ids] for ids in module.tokenize_side(texts, "document", names, max_length)]
    names = [f"document {position}" for position in range(len(texts))] if names is None else names
    for text, name in zip(texts, names, strict=True):
        check_text(text, name)
    if not texts:
        return []
    before, after = module.model.config.special_tokens("document")
    room = _room(module)
    rows = module.tokenize_texts(texts)
    return [
        [
            [*before, *row[start : start + room], *after]
            for start in range(0, max(len(row) - overlap, 1), room - overlap)
        ]
        for row in rows
    ]


def join_passages(passages: Sequence[DocumentStates]) -> DocumentStates:
    """The passages of one document as one ``DocumentStates``."""
    if len(passages) == 1:
        return passages[0]
    return DocumentStates(torch.cat([p.states for p in passages]), torch.cat([p.input_ids for p in passages]))


def split_passages(document: DocumentStates, sep_token_id: int) -> list[DocumentStates]:
    """The inverse of ``join_passages``: views of the document's states."""
    if int((document.input_ids == sep_token_id).sum()) <= 1:
        return [document]
    lengths, _ = find_passages(document.input_ids, torch.tensor([len(document)]), sep_token_id)
    return _split([document], lengths.tolist(), [0] * len(lengths))


def find_passages(input_ids: Tensor, lengths: Tensor, sep_token_id: int) -> tuple[Tensor, Tensor]:
    """Where passages lie among the tokens of several documents.

    Args:
        input_ids: Tokens of all documents, ``(total,)``, int64.
        lengths: Tokens of each document, ``(n,)``, int64, on the CPU.
        sep_token_id: Ends each passage.

    Returns:
        Tokens of each passage and the position of its document, ``(m,)`` each, int64, on the CPU.
    """
    is_end = (input_ids == sep_token_id).cpu()
    last = lengths.cumsum(0) - 1
    is_end[last] = True  # whatever a document made elsewhere ends with
    ends = is_end.nonzero().flatten()
    owners = torch.searchsorted(last, ends)
    return torch.diff(ends, prepend=ends.new_tensor([-1])), owners


@torch.no_grad()
def score_passages(
    model: Any, query: EncodedTexts, documents: Sequence[DocumentStates] | PackedStates, chunk_documents: int
) -> Tensor:
    """Score one query against many documents, a document of several passages by the best of them.

    Args:
        model: A ``MiceForSequenceClassification`` in evaluation mode.
        query: One contextualised query, a batch of one.
        documents: States in memory, or packed as a store gives them.
        chunk_documents: Passages computed together.

    Returns:
        ``(len(documents),)``, float32 logits.

    Raises:
        ValueError: If a score is not finite.
    """
    if not len(documents):
        return torch.empty(0, device=query.states.device)
    sep_token_id = model.config.sep_token_id
    if isinstance(documents, PackedStates):
        lengths, owners = find_passages(documents.input_ids, documents.lengths, sep_token_id)
    else:
        device = documents[0].input_ids.device
        input_ids = torch.cat([document.input_ids.to(device) for document in documents])
        sizes = torch.tensor([len(document) for document in documents])
        lengths, owners = find_passages(input_ids, sizes, sep_token_id)
    if len(owners) == len(documents):
        return score_documents(model, query, documents, chunk_documents)
    if isinstance(documents, PackedStates):
        passages: Any = replace(documents, lengths=lengths)
    else:
        passages = _split(documents, lengths.tolist(), owners.tolist())
    scores = score_documents(model, query, passages, chunk_documents)
    best = scores.new_full((len(documents),), -torch.inf)
    return best.scatter_reduce_(0, owners.to(scores.device), scores, "amax")


def _split(documents: Sequence[DocumentStates], lengths: Sequence[int], owners: Sequence[int]) -> list[DocumentStates]:
    """The passages of documents in memory; views of them."""
    passages = []
    start, last = 0, -1
    for length, owner in zip(lengths, owners, strict=True):
        start = 0 if owner != last else start
        document, part = documents[owner], slice(start, start + length)
        passages.append(DocumentStates(document.states[part], document.input_ids[part]))
        start, last = start + length, owner
    return passages
