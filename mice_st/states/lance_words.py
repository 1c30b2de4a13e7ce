"""BM25 over the words that a Lance store keeps, with the figures of the version that is searched: exact, whatever is indexed.

Lance's own full-text index is not used: it scores rows that it has not indexed yet by other statistics, counts deleted
ones until the store is compacted, and orders ties differently each time. Here an index of the ``words`` column, which
``compact`` makes and Lance completes by reading what it lacks, finds the rows; their scores are computed from their
columns, as SQLite's FTS5 computes them.

Not every row with a frequent word is read: rows with the rare words of a query come first, and the others only if their
best possible score would do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import StoreError
from .identity import Tokenizer
from .lance_extra import pa, pc
from .lance_files import as_rows, quoted, read_table, translated
from .lance_terms import asked_terms, occurrences, text_terms, trigrams
from .rows import DocumentRow
from .vectors import in_order
from .where import Where

K1, B = 1.2, 0.75  # FTS5's
FIRST_ROWS = 1000  # rows with rare words that are read at least
GROWTH = 8


class Totals(NamedTuple):
    """Documents, words in all of them, and an id without text if there is one."""

    documents: int
    words: int
    without_text: str | None


class Pending(NamedTuple):
    """What a writer has not committed: ids whose stored rows do not count, and light rows that do."""

    hidden: frozenset[str]
    documents: Sequence[DocumentRow]


NOTHING_PENDING = Pending(frozenset(), ())


class Found(NamedTuple):
    """Rows that share a word with a query: ids, metadata, lengths ``(n,)`` and counts ``(n, n_terms)`` of its terms."""

    ids: list[str]
    metadata: list[str | None]
    lengths: np.ndarray
    counts: np.ndarray


def read_totals(dataset: Any, uri: str) -> Totals:
    """Figures of a version, from one column of small integers."""
    column = read_table(dataset, uri, ["n_words"])["n_words"]
    without = None
    if column.null_count:
        without = read_table(dataset, uri, ["id"], filter="n_words IS NULL", limit=1)["id"][0].as_py()
    return Totals(len(column), pc.sum(column).as_py() or 0, without)


class WordSearch:
    """One search in one version.

    Args:
        dataset: The version.
        uri: Of the store, for messages.
        tokenizer: Of the store.
        totals: Of the version.
        pending: What the searching writer has not committed.
    """

    def __init__(self, dataset: Any, uri: str, tokenizer: Tokenizer, totals: Totals, pending: Pending) -> None:
        self._dataset = dataset
        self._uri = uri
        self._tokenizer = tokenizer
        self._pending = pending
        self._totals = totals

    def best(self, query: str, top_k: int, where: Where | None) -> dict[str, float]:
        """As ``Store.search_words``."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        terms = asked_terms(query, self._tokenizer)
        totals = self._totals_now()
        if totals.without_text is not None:
            raise StoreError(f"{self._uri}: document {totals.without_text!r} was put without its text")
        if not terms or not totals.documents:
            return {}
        if self._tokenizer == "trigram" or self._pending.hidden:
            found = self._every(terms)
            return self._ranked(found, (found.counts > 0).sum(0), totals, top_k, where)
        return self._best_of_rare(terms, totals, top_k, where)

    def _totals_now(self) -> Totals:
        """Figures with what is pending."""
        hidden, documents = self._pending
        if not hidden:
            return self._totals
        stored = read_table(self._dataset, self._uri, ["id", "n_words"])  # a writer with open changes, no server
        kept = [(id_, words) for id_, words in as_rows(stored, ["id", "n_words"]) if id_ not in hidden]
        lacking = [id_ for id_, words in kept if words is None] + [row.id for row in documents if row.text is None]
        mine = sum(text_terms(row.text, self._tokenizer)[1] for row in documents if row.text is not None)
        n_documents, n_words = len(kept) + len(documents), sum(words or 0 for _, words in kept) + mine
        return Totals(n_documents, n_words, lacking[0] if lacking else None)

    def _best_of_rare(self, terms: list[str], totals: Totals, top_k: int, where: Where | None) -> dict[str, float]:
        """The rows of the rarest terms first; those that have frequent ones alone only if they could be among the best."""
        with translated(self._uri, "reading"):
            rows_with = {term: self._dataset.count_rows(filter=_has([term])) for term in terms}
        terms = sorted((term for term in terms if rows_with[term]), key=lambda term: (rows_with[term], term))
        frequencies = np.array([rows_with[term] for term in terms], dtype=np.int64)
        most = _idf(frequencies, totals.documents) * (K1 + 1)  # what a term can add to a score, and never quite does
        taken, enough = 0, max(FIRST_ROWS, top_k)
        while taken < len(terms):
            taken += 1
            while taken < len(terms) and frequencies[: taken + 1].sum() <= enough:
                taken += 1
            found = self._matching(terms, _has(terms[:taken]), where is not None)
            best = self._ranked(found, frequencies, totals, top_k, where)
            if len(best) == top_k and min(best.values()) > most[taken:].sum():
                return best
            enough = max(enough, int(frequencies[:taken].sum())) * GROWTH
        return best if terms else {}

    def _every(self, terms: list[str]) -> Found:
        """All rows with any of the terms, pending ones too."""
        if self._tokenizer == "trigram":
            condition = " OR ".join(f"array_has_all(words, {_array(trigrams(term))})" for term in terms)
        else:
            condition = _has(terms)
        found = self._matching(terms, condition, True)
        keep = [place for place, id_ in enumerate(found.ids) if id_ not in self._pending.hidden]
        mine = [row for row in self._pending.documents if row.text is not None]
        counted = [text_terms(row.text or "", self._tokenizer) for row in mine]
        if self._tokenizer == "trigram":
            counts = [[occurrences(term, row.text or "") for term in terms] for row in mine]
        else:
            counts = [[of.get(term, 0) for term in terms] for of, _ in counted]
        return Found(
            [found.ids[place] for place in keep] + [row.id for row in mine],
            [found.metadata[place] for place in keep] + [row.metadata for row in mine],
            np.concatenate([found.lengths[keep], np.array([length for _, length in counted], dtype=np.int64)]),
            np.concatenate([found.counts[keep], np.array(counts, dtype=np.int64).reshape(len(mine), len(terms))]),
        )

    def _matching(self, terms: list[str], condition: str, with_metadata: bool) -> Found:
        trigram = self._tokenizer == "trigram"
        columns = ["id", "n_words", *(["text"] if trigram else ["words", "counts"])]
        table = read_table(self._dataset, self._uri, columns + ["metadata"] * with_metadata, filter=condition)
        ids = table["id"].to_pylist()
        if trigram:
            texts = table["text"].to_pylist()
            counts = np.array([[occurrences(term, text) for term in terms] for text in texts], dtype=np.int64)
            counts = counts.reshape(len(ids), len(terms))
        else:
            counts = _counts(table, terms)
        metadata = table["metadata"].to_pylist() if with_metadata else [None] * len(ids)
        return Found(ids, metadata, table["n_words"].to_numpy().astype(np.int64), counts)

    def _ranked(
        self, found: Found, frequencies: np.ndarray, totals: Totals, top_k: int, where: Where | None
    ) -> dict[str, float]:
        """BM25 of the rows that were found, best first."""
        mean = totals.words / totals.documents
        lengths = found.lengths[:, None] / mean if mean else np.zeros((len(found.ids), 1))
        tf = found.counts * (K1 + 1) / (found.counts + K1 * (1 - B + B * lengths))
        scores = (tf * _idf(frequencies, totals.documents)).sum(1)
        admitted = (found.counts > 0).any(1) & admits(where, found.metadata)
        places = np.flatnonzero(admitted)
        if len(places) > top_k:  # with all that equal the last of them
            places = places[scores[places] >= np.partition(scores[places], -top_k)[-top_k]]
        return in_order(((found.ids[place], float(scores[place])) for place in places), top_k)


def admits(where: Where | None, metadata: Sequence[str | None]) -> np.ndarray:
    """Which metadata, as JSON or None, satisfy a condition, ``(n,)`` bool."""
    if where is None:
        return np.ones(len(metadata), dtype=bool)
    known = {line: where.matches(None if line is None else json.loads(line)) for line in set(metadata)}
    return np.array([known[line] for line in metadata], dtype=bool)


def _idf(frequencies: np.ndarray, documents: int) -> np.ndarray:
    """FTS5's weight of terms, which is never negative: a word in most documents counts next to nothing."""
    weights = np.log((documents - frequencies + 0.5) / (frequencies + 0.5))
    return np.where(weights > 0, weights, 1e-6)


def _counts(table: Any, terms: list[str]) -> np.ndarray:
    """How often each row has each term, ``(n_rows, n_terms)``."""
    counts = np.zeros((table.num_rows, len(terms)), dtype=np.int64)
    start = 0
    for words, numbers in zip(table["words"].chunks, table["counts"].chunks, strict=True):
        which = pc.index_in(words.flatten(), value_set=pa.array(terms, pa.string()))
        places = np.flatnonzero(which.is_valid().to_numpy(zero_copy_only=False))
        rows = np.repeat(np.arange(len(words)), pc.list_value_length(words).to_numpy(zero_copy_only=False))
        counts[start + rows[places], which.take(pa.array(places)).to_numpy(zero_copy_only=False)] = (
            numbers.flatten().to_numpy(zero_copy_only=False)[places]
        )
        start += len(words)
    return counts


def _has(terms: Sequence[str]) -> str:
    if len(terms) == 1:
        return f"array_has(words, {quoted(terms[0])})"
    return f"array_has_any(words, {_array(terms)})"


def _array(terms: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, terms))}]"
