"""Words for BM25: what of a text is given to a full-text index, and what a query asks of it.

SQLite's FTS5 takes a run of Chinese or Japanese characters for one word. They are therefore handed to it one by one, and
a query asks for pairs of neighbours. Nothing of a query has a meaning to FTS5: every word stands in quotation marks.
"""

from __future__ import annotations

import re
import unicodedata

from .identity import Tokenizer

# `categories`: without marks (Mn, Mc) Hindi, Bengali and Tamil fall apart at their vowel signs. `tokenchars`: without them
# C, C++ and C# are one word.
FTS5_TOKENIZERS: dict[Tokenizer, str] = {
    "unicode61": "unicode61 categories 'L* N* Co Mn Mc' tokenchars '+#'",
    "trigram": "trigram",
}
TRIGRAM = 3

# Han, with its extensions, compatibility forms and iteration mark; Hiragana; Katakana, half-width too.
SINGLE = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_NEIGHBOURS = re.compile(f"(?<=[{SINGLE}])(?=.)|(?<=.)(?=[{SINGLE}])", re.DOTALL)
_RUN = re.compile(f"[{SINGLE}]+|[^{SINGLE}]+")


def indexed_text(text: str, tokenizer: Tokenizer) -> str:
    """What of a text is given to the index: the text, for ``unicode61`` with spaces around Chinese and Japanese."""
    text = text.replace("\0", " ")  # SQLite's functions end a text there
    return _NEIGHBOURS.sub(" ", text) if tokenizer == "unicode61" else text


def query_terms(query: str, tokenizer: Tokenizer) -> list[str]:
    """The terms of a query, each once and in order: words, or words one after the other, with spaces between them.

    Args:
        query: Any text.
        tokenizer: Of the index.
    """
    words: list[str] = []
    for word in re.findall(r"\S+", "".join(c if is_word(c) else " " for c in query)):
        if tokenizer == "trigram":
            words += [word] if len(word) >= TRIGRAM else []
            continue
        for run in _RUN.findall(word):
            if not re.match(f"[{SINGLE}]", run) or len(run) == 1:
                words.append(run)
            else:
                words += [f"{run[place]} {run[place + 1]}" for place in range(len(run) - 1)]
    return list({word.lower(): word for word in reversed(words)}.values())[::-1]  # FTS5 folds case itself


def is_word(character: str) -> bool:
    """Whether ``unicode61``, as the index is set, takes a character for part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in ("Co", "Mn", "Mc") or character in "+#"


def why_no_terms(query: str, tokenizer: Tokenizer) -> str:
    """Why a query has no terms, for whoever asked."""
    if not query.strip():
        return "the query is empty"
    if tokenizer == "trigram":
        return f"no word of the query has {TRIGRAM} characters, which the store's trigram tokenizer needs"
    return "the query holds no letter and no digit"


def quoted(term: str) -> str:
    """A term as FTS5 takes it literally."""
    return '"' + term.replace('"', '""') + '"'
