"""Queries for documents that nobody has asked for: their titles, or their first sentences.

The text that became the query is taken out of its document, or matching words would be all there is to learn.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mice_st.collection import Collection

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MOST_WORDS = 40  # longer first sentences are no queries
LEAST_WORDS_LEFT = 10  # what is left of a document must be worth finding


def pseudo_query_collection(folder: Path, name: str) -> Collection:
    """A collection whose queries are made from its own documents.

    A document with a title gives its title; one without, the first of several sentences. Documents from which neither can be made stay as
    candidates. Which title or sentence several documents share is no query.

    Args:
        folder: Holds ``corpus.jsonl`` in BEIR layout; each line has been checked before.
        name: Of the collection.

    Returns:
        Documents without what became their query; the query's id is the document's, its only relevant document is that one.

    Raises:
        ValueError: If no document gives a query.
    """
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    with (folder / "corpus.jsonl").open(encoding="utf-8-sig") as lines:
        for line in filter(str.strip, lines):
            row = json.loads(line)
            document_id = str(row["_id"] if "_id" in row else row["id"])
            query, rest = _split(row.get("title") or "", row["text"])
            corpus[document_id] = rest
            if query:
                queries[document_id] = query
    seen: dict[str, int] = {}
    for query in queries.values():
        seen[query.lower()] = seen.get(query.lower(), 0) + 1
    queries = {item: query for item, query in queries.items() if seen[query.lower()] == 1}
    if not queries:
        raise ValueError(f"{name}: no document has a title or a first sentence of its own to be a query")
    return Collection(name, corpus, queries, {item: {item: 1} for item in queries})


def _split(title: str, text: str) -> tuple[str, str]:
    """Query and the rest of the document; an empty query where there is none."""
    title, text = " ".join(title.split()), text.strip()
    if title and len(text.split()) >= LEAST_WORDS_LEFT:
        return title, text
    whole = f"{title} {text}".strip()
    sentence, *rest = SENTENCE_END.split(whole, maxsplit=1)
    if rest and len(rest[0].split()) >= LEAST_WORDS_LEFT and 2 <= len(sentence.split()) <= MOST_WORDS:
        return sentence, rest[0]
    return "", whole
