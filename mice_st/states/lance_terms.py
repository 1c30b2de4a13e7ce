"""The words of a text as the Lance engine keeps them: what ``words.query_terms`` asks of a text, found in it.

They are told apart as SQLite's FTS5 does, so that both engines find the same documents with the same scores: letters,
digits, marks, ``+`` and ``#`` make words, Latin, Greek and Cyrillic letters lose their accents, and Chinese and Japanese
characters are words and pairs of neighbours. With ``trigram``, three characters in a row are a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from .identity import Tokenizer
from .words import SINGLE, TRIGRAM, indexed_text, is_word, query_terms

_ACCENTS = re.compile("[\u0300-\u036f]")
_SINGLE = re.compile(f"[{SINGLE}]")


def folded(text: str) -> str:
    """A text without case and accents; what ``unicode61`` compares."""
    text = text.casefold()
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def text_terms(text: str, tokenizer: Tokenizer) -> tuple[dict[str, int], int]:
    """The terms of a text.

    Args:
        text: Of a document.
        tokenizer: Of the store.

    Returns:
        Term -> how often it occurs, and the length of the text in words, as BM25 counts it.
    """
    if tokenizer == "trigram":
        text = text.replace("\0", " ").casefold()
        grams = [text[place : place + TRIGRAM] for place in range(len(text) - TRIGRAM + 1)]
        return dict(Counter(grams)), len(grams)
    spaced = indexed_text(folded(text), tokenizer)
    words = "".join(c if is_word(c) else " " for c in spaced).split()
    single = [_SINGLE.match(word) is not None for word in words]
    pairs = [f"{words[i]} {words[i + 1]}" for i in range(len(words) - 1) if single[i] and single[i + 1]]
    return dict(Counter(words + pairs)), len(words)


def asked_terms(query: str, tokenizer: Tokenizer) -> list[str]:
    """The terms of a query, each once and in order; with ``trigram``, words of three characters or more."""
    return query_terms(query.casefold() if tokenizer == "trigram" else folded(query), tokenizer)


def trigrams(word: str) -> list[str]:
    """The terms that every text with this word has, each once."""
    return list(dict.fromkeys(word[place : place + TRIGRAM] for place in range(len(word) - TRIGRAM + 1)))


def occurrences(word: str, text: str) -> int:
    """How often a word occurs in a text, overlaps counted, as the places of its trigrams would have it."""
    return len(re.findall(f"(?={re.escape(word)})", text.replace("\0", " ").casefold()))
