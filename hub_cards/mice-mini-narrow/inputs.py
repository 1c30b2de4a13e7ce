"""What callers give - texts, pairs, states of documents, a tokenizer - recognised, checked and padded.

It raises ValueError only, for the reason that ``st_mice.py`` gives.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def count_pair_separators(tokenizer: Any) -> int:
    """How many [SEP] a tokenizer puts between query and document: 1, or 2 as RoBERTa's do.

    Raises:
        ValueError: If its pair encoding is neither ``[CLS] query [SEP] document [SEP]`` nor the same with two.
    """
    query, document = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    pair = tokenizer("a", "b")["input_ids"]
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    for count in (1, 2):
        if pair == [cls_id, *query, *[sep_id] * count, *document, sep_id]:
            return count
    raise ValueError(
        f"The tokenizer joins query and document as {tokenizer.convert_ids_to_tokens(pair)}: its separators cannot be "
        "recognised. MICE reads [CLS] query [SEP] document [SEP], or two [SEP] between."
    )


def is_states(document: Any) -> bool:
    """Whether a document is given as ``DocumentStates``, whichever copy of that class made it."""
    return hasattr(document, "states") and hasattr(document, "input_ids")


def check_passages(document: Any, row: int, sep_token_id: int) -> None:
    """Refuse the states of a document that was cut into passages: read as one text they would get a wrong score."""
    passages = int((document.input_ids == sep_token_id).sum())
    if passages > 1:
        raise ValueError(
            f"pair {row}: the document is made of {passages} passages, which are scored one by one: rank it with "
            "MiceCrossEncoder of mice-st, or give each passage as a document."
        )


def check_pair(pair: Any, row: int) -> tuple[Any, Any]:
    """Refuse what is not a pair, naming its row."""
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"pair {row}: expected (query, document), got {pair!r:.80}.")
    return pair[0], pair[1]


def check_text(text: Any, name: str, window: int | None = None) -> None:
    """Refuse what is not text, or cannot be encoded as UTF-8 within its first ``window`` characters."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is of type {type(text).__name__}, not a string.")
    try:
        text[:window].encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a lone surrogate at character {error.start}.") from error


def pad_ids(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ragged token ids to ``input_ids`` ``(n, longest)``, int64, and their mask, bool."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
