"""Queries for documents that nobody has asked for: their titles, or their first sentences.

The text that became the query is taken out of its document, or matching words would be all there is to learn.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mice_st.data.collection import Collection
from mice_st.data.reader import read_corpus

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MOST_WORDS = 40  # longer first sentences are no queries
LEAST_WORDS_LEFT = 10  # what is left of a document must be worth finding


def pseudo_query_collection(folder: Path, name: str) -> Collection:
    """A collection whose queries are made from its own documents.

    A document with a title of its own gives its title; any other the first of several sentences, unless other documents
    begin with it too. Documents from which neither can be made stay as candidates.

    Args:
        folder: Holds ``corpus.jsonl`` in BEIR layout, as ``read_corpus`` takes it.
        name: Of the collection.

    Returns:
        Documents without what became their query; the query's id is the document's, its only relevant document is that
        one.

    Raises:
        FileNotFoundError: If there is no corpus.
        ValueError: If a line is bad, naming it, or no document gives a query.
    """
    rows: dict[str, tuple[str, str]] = {}
    for entry in read_corpus(folder).entries():
        rows[entry.id] = (" ".join(entry.title.split()), entry.text.strip())
    titles = Counter(title.lower() for title, _ in rows.values())
    sentences = Counter(_first_sentence(text)[0].lower() for _, text in rows.values())
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    for document_id, (title, text) in rows.items():
        sentence, rest = _first_sentence(text)
        if title and titles[title.lower()] == 1 and len(text.split()) >= LEAST_WORDS_LEFT:
            queries[document_id], corpus[document_id] = title, text
        elif sentence and sentences[sentence.lower()] == 1:
            queries[document_id], corpus[document_id] = sentence, f"{title} {rest}".strip()
        else:
            corpus[document_id] = f"{title} {text}".strip()
    if not queries:
        raise ValueError(f"{name}: no document has a title or a first sentence of its own to be a query")
    return Collection(name, corpus, queries, {item: {item: 1} for item in queries})


def _first_sentence(text: str) -> tuple[str, str]:
    """First sentence and the rest of a text; an empty sentence where it is no query, or too little would be left."""
    sentence, *rest = SENTENCE_END.split(text, maxsplit=1)
    if rest and len(rest[0].split()) >= LEAST_WORDS_LEFT and 2 <= len(sentence.split()) <= MOST_WORDS:
        return sentence, rest[0]
    return "", text
