"""Where the segments of a pair encoding lie: read off a tokenizer once, then found in every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mice_st.research.masking.patches import SEGMENTS

CLS, QUERY, SEP1, DOCUMENT, SEP2 = range(len(SEGMENTS))
PADDING = len(SEGMENTS)  # no segment: a number of its own

PROBE_QUERY, PROBE_DOCUMENT = "what is it", "a word or two"


@dataclass(frozen=True)
class PairLayout:
    """``[CLS] query [SEP] document [SEP]``, as one tokenizer writes it.

    Attributes:
        cls_id: Token id that starts a pair.
        sep_id: Token id that separates its sides and ends it.
        separators: How many of them stand between query and document; RoBERTa has two, which both are ``SEP1``.
    """

    cls_id: int
    sep_id: int
    separators: int

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> PairLayout:
        """Find out what the tokenizer puts around the two texts of a pair.

        Raises:
            ValueError: If it is not one token before them, the same separator between and behind them; shows what it is.
        """
        query = tokenizer(PROBE_QUERY, add_special_tokens=False)["input_ids"]
        document = tokenizer(PROBE_DOCUMENT, add_special_tokens=False)["input_ids"]
        pair: list[int] = tokenizer(PROBE_QUERY, PROBE_DOCUMENT)["input_ids"]
        between = pair[1 + len(query) : -1 - len(document)]
        made = cls(pair[0], pair[-1], len(between))
        if pair != [made.cls_id, *query, *([made.sep_id] * made.separators), *document, made.sep_id] or not between:
            raise ValueError(
                "The tokenizer's separators cannot be recognised: a pair should read [CLS] query [SEP] document [SEP], "
                f"but reads {' '.join(map(str, tokenizer.convert_ids_to_tokens(pair)))}."
            )
        if made.cls_id in (*query, *document, made.sep_id) or made.sep_id in (*query, *document):
            raise ValueError("The tokenizer's separators cannot be recognised: they are tokens of plain text too.")
        return made

    def find_segments(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The segment of every token.

        Args:
            input_ids: ``(B, L)``, int64.
            attention_mask: ``(B, L)``, 0 where there is padding; None for none.

        Returns:
            ``(B, L)``, int64: position in ``SEGMENTS``, ``PADDING`` for padding.

        Raises:
            ValueError: If a row is no pair of this layout; names the row.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        is_separator = (input_ids == self.sep_id) & real
        seen = is_separator.cumsum(1)  # separators up to here, this one included
        place = real.cumsum(1)  # real tokens up to here, from 1
        segments = torch.full_like(input_ids, DOCUMENT)
        segments[seen == 0] = QUERY
        segments[is_separator & (seen <= self.separators)] = SEP1
        segments[is_separator & (seen > self.separators)] = SEP2
        segments[place == 1] = CLS
        segments[~real] = PADDING
        self._check(input_ids, segments, place)
        return segments

    def _check(self, input_ids: Tensor, segments: Tensor, place: Tensor) -> None:
        last = place[:, -1:]  # real tokens of the row
        good = ((segments == SEP1).sum(1) == self.separators) & ((segments == SEP2).sum(1) == 1)
        good &= ((segments == CLS) & (input_ids == self.cls_id)).sum(1) == 1
        good &= ((segments == SEP2) & (place == last)).any(1)  # nothing follows it
        # Separators between the sides stand side by side.
        spread = torch.where(segments == SEP1, place, 0).amax(1) - torch.where(segments == SEP1, place, last).amin(1)
        good &= spread == self.separators - 1
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            separators = " ".join(["[SEP]"] * self.separators)
            raise ValueError(f"input_ids: row {row} is not of the form [CLS] query {separators} document [SEP].")


def restarted_positions(segments: Tensor, offset: int) -> Tensor:
    """Positions that count from 0 again where the document starts, so that they say nothing of the query.

    Args:
        segments: ``(B, L)``, from ``find_segments``.
        offset: Position of a text's first token; RoBERTa starts at 2.

    Returns:
        ``(B, L)``, int64; padding, which nobody reads, gets ``offset``.
    """
    real = segments != PADDING
    place = real.cumsum(1) - 1
    is_document = (segments == DOCUMENT) | (segments == SEP2)
    before = (real & ~is_document).sum(1, keepdim=True)
    return torch.where(real, place - torch.where(is_document, before, 0), 0) + offset


def position_offset(model: Any) -> int:
    """Position of a text's first token: 0, or what follows the padding's own position in RoBERTa and its kin."""
    for module in model.modules():
        is_table = isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding)
        if is_table and isinstance(getattr(module, "padding_idx", None), int):
            return int(module.padding_idx) + 1
    return 0
