"""BM25 as the first stage: the candidates that a re-ranker orders anew.

The parameters are bm25s' defaults (Lucene's variant, k1 1.5, b 0.75, English stop words, no stemmer), so that figures can be compared
with published ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mice_st.data.runs import Run

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
