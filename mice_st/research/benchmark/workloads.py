"""Queries and documents with exact token counts, and the names of what is measured.

Texts are drawn from the whole words of the tokenizer's vocabulary: each is one token, so that a text of n - 2 words has n
tokens with [CLS] and [SEP]. All lengths below include these two.

Document lengths called ``msmarco`` are those of MS MARCO's passages as ColBERT and MICE read them: log-normal, 75 tokens
on average, 180 at most. They are quantiles, not draws: 100 and 1000 documents have the same mean, so that their times can
be compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

MEAN_TOKENS, LONGEST_TOKENS, SHORTEST_TOKENS = 75.0, 180, 12  # of the lengths called msmarco
SPREAD = 0.42  # standard deviation of the logarithm; a choice of ours


@dataclass(frozen=True)
class Workload:
    """One query against some documents.

    Attributes:
        lengths: ``"msmarco"``, or the tokens of every document, such as ``"256"``.
        documents: How many.
        query_tokens: Tokens of the query.
    """

    lengths: str
    documents: int
    query_tokens: int

    def __str__(self) -> str:
        return f"{self.documents} documents, {self.lengths} tokens, query of {self.query_tokens}"


def document_lengths(lengths: str, count: int) -> list[int]:
    """Tokens of each document, in a shuffled order that depends on nothing but the arguments.

    Args:
        lengths: As in ``Workload``.
        count: Documents.

    Raises:
        ValueError: If ``lengths`` is neither ``"msmarco"`` nor a number of at least 3 tokens.
    """
    if lengths != "msmarco":
        if not lengths.isdecimal() or int(lengths) < 3:
            raise ValueError(f"lengths: {lengths!r} is neither 'msmarco' nor a number of at least 3 tokens")
        return [int(lengths)] * count
    quantiles = [NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)]
    low, high = 0.0, 2 * MEAN_TOKENS  # the median for which the mean, once cut, is right: by bisection
    drawn: list[int] = []
    for _ in range(50):
        median = (low + high) / 2
        drawn = [_cut(median * 2.718281828459045 ** (SPREAD * quantile)) for quantile in quantiles]
        low, high = (median, high) if fmean(drawn) < MEAN_TOKENS else (low, median)
    random.Random(count).shuffle(drawn)
    return drawn


def _cut(tokens: float) -> int:
    return min(LONGEST_TOKENS, max(SHORTEST_TOKENS, round(tokens)))


class Words:
    """Whole words of a tokenizer, one token each.

    Args:
        tokenizer: Any fast or slow tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        candidates = sorted(
            word for word in tokenizer.get_vocab() if len(word) > 1 and word.isascii() and word.isalpha()
        )
        ids = tokenizer(candidates, add_special_tokens=False)["input_ids"]
        self.words = [word for word, row in zip(candidates, ids, strict=True) if len(row) == 1]
        if not self.words:
            raise ValueError("the tokenizer has no whole word to make texts of")

    def texts(self, lengths: Sequence[int], seed: int) -> list[str]:
        """Texts of these lengths, in tokens, [CLS] and [SEP] included; the same for the same seed."""
        chosen = random.Random(seed)
        return [" ".join(chosen.choices(self.words, k=length - 2)) for length in lengths]
