"""BM25 as the first stage: the candidates that a re-ranker orders anew, and the run files that hold them.

The parameters are bm25s' defaults (Lucene's variant, k1 1.5, b 0.75, English stop words, no stemmer), so that figures can be compared
with published ones. A run is a dict: query id -> document id -> score, best first.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

Run = dict[str, dict[str, float]]

# A progress bar is shown only where the work takes longer than this.
PROGRESS_DELAY_SECONDS = 2.0


class BM25:
    """BM25 over a corpus in memory.

    Args:
        corpus: Document id -> text.

    Raises:
        ImportError: If bm25s is not installed; the message names the extra.
        ValueError: If the corpus is empty or a text is not a string; the message gives the document's id.
    """

    def __init__(self, corpus: Mapping[str, str]) -> None:
        self._bm25s = _import_bm25s()
        if not corpus:
            raise ValueError("BM25 needs at least one document; the corpus is empty")
        _check_texts(corpus, "document")
        # Sorted ids make ties independent of the order of the corpus: of equal scores, the smaller position comes first.
        self._document_ids = sorted(corpus)
        texts = (corpus[document_id] for document_id in self._document_ids)
        tokens = [
            self._words(text)
            for text in tqdm(
                texts, "BM25: words", len(corpus), unit="document", delay=PROGRESS_DELAY_SECONDS, leave=False
            )
        ]
        self._index: Any = None  # None: no document has a word, so nothing can be found
        if any(tokens):
            self._index = self._bm25s.BM25(backend="numpy")
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Mapping[str, str], top_k: int = 100) -> Run:
        """Find the best documents for each query.

        Documents that share no word with a query score 0 and are left out: nothing orders them, and filling up with them would hand
        the re-ranker documents chosen by their ids. A query can therefore have fewer than ``top_k`` documents, or none.

        Args:
            queries: Query id -> text.
            top_k: Largest number of documents for one query.

        Returns:
            For each query, in the order of ``queries``, document id -> score (above 0, larger is better), best first; equal scores are
            ordered by document id.

        Raises:
            ValueError: If ``top_k`` is less than 1, or a query is not a string; the message gives its id.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        _check_texts(queries, "query")
        progress = tqdm(queries.items(), "BM25: search", unit="query", delay=PROGRESS_DELAY_SECONDS, leave=False)
        return {query_id: self._best(text, top_k) for query_id, text in progress}

    def _best(self, text: str, top_k: int) -> dict[str, float]:
        """Rank the documents for one query."""
        words = self._words(text)
        if self._index is None or not words:
            return {}
        # Not bm25s' own `retrieve`: which of several equal scores at the cut survives there depends on numpy's partition.
        scores: np.ndarray = self._index.get_scores(words)
        if top_k < len(scores):
            threshold = np.partition(scores, -top_k)[-top_k]
            found = np.flatnonzero((scores >= threshold) & (scores > 0))
        else:
            found = np.flatnonzero(scores > 0)
        order = found[np.argsort(-scores[found], kind="stable")][:top_k]
        return {self._document_ids[position]: float(scores[position]) for position in order}

    def _words(self, text: str) -> list[str]:
        """The words of a text, lower-cased, without stop words."""
        words: list[str] = self._bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)[0]
        return words


def write_run(run: Mapping[str, Mapping[str, float]], path: str | Path, tag: str = "mice-st") -> None:
    """Write a run in TREC format: ``query Q0 document rank score tag``, ranks from 1, scores that read back exactly.

    Args:
        run: Query id -> document id -> score. Documents are written best first; equal scores keep the order given.
        path: The file; replaced if it exists.
        tag: Name of the system, the last field of each line.

    Raises:
        ValueError: If a score is not finite, or an id or the tag is empty or holds white space, which separates the fields. Nothing is
            written then.
    """
    lines = []
    _check_field(tag, "tag")
    for query_id, scores in run.items():
        _check_field(query_id, "query id")
        for rank, document_id in enumerate(sorted(scores, key=lambda item: -scores[item]), start=1):
            _check_field(document_id, "document id")
            score = float(scores[document_id])
            if not math.isfinite(score):
                raise ValueError(f"query {query_id!r}, document {document_id!r}: the score is {score}")
            lines.append(f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_run(path: str | Path) -> Run:
    """Read a run in TREC format.

    Args:
        path: The file; its lines can be in any order, and those that are blank are passed over.

    Returns:
        Query id -> document id -> score, the documents of a query in the order of their ranks.

    Raises:
        ValueError: If a line has not six fields, a rank that is no integer, a score that is no finite number, or repeats a document or
            a rank of its query; the message gives file and line.
    """
    ranked: dict[str, dict[int, tuple[str, float]]] = {}
    seen: set[tuple[str, str]] = set()
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                query_id, document_id, rank, score = _parse_run_line(line)
                if (query_id, document_id) in seen:
                    raise ValueError(f"document {document_id!r} is there twice for query {query_id!r}")
                if rank in ranked.get(query_id, {}):
                    raise ValueError(f"rank {rank} is there twice for query {query_id!r}")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            seen.add((query_id, document_id))
            ranked.setdefault(query_id, {})[rank] = (document_id, score)
    return {query_id: dict(by_rank[rank] for rank in sorted(by_rank)) for query_id, by_rank in ranked.items()}


def _parse_run_line(line: str) -> tuple[str, str, int, float]:
    """One line of a run file; errors do not yet say where."""
    fields = line.split()
    if len(fields) != 6:
        raise ValueError(f"expected 6 fields (query Q0 document rank score tag), found {len(fields)}")
    query_id, _, document_id, rank_field, score_field, _ = fields
    try:
        rank = int(rank_field)
    except ValueError as error:
        raise ValueError(f"the rank must be an integer, not {rank_field!r}") from error
    try:
        score = float(score_field)
    except ValueError as error:
        raise ValueError(f"the score must be a number, not {score_field!r}") from error
    if not math.isfinite(score):
        raise ValueError(f"the score of document {document_id!r} for query {query_id!r} is {score_field}")
    return query_id, document_id, rank, score


def _check_field(value: str, what: str) -> None:
    """Refuse what would shift the fields of a run file."""
    if len(value.split()) != 1 or value != value.strip():
        raise ValueError(f"the {what} {value!r} is empty or holds white space, which a run file cannot hold")


def _check_texts(texts: Mapping[str, str], what: str) -> None:
    """Refuse anything but strings before any work is done."""
    for item_id, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"the text of {what} {item_id!r} is {type(text).__name__}, not a string")


def _import_bm25s() -> Any:
    """Import bm25s, or say how to get it."""
    try:
        import bm25s
    except ImportError as error:
        raise ImportError('BM25 needs bm25s: pip install "mice-st[train]"') from error
    return bm25s
