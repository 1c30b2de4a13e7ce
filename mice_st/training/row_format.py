"""One training row: its fields, the forms in which a line of a file gives them, and what is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from mice_st.modeling.st_mice import check_text

# Of sentence-transformers' rows: negative, negative_1, negative_2, ...
NEGATIVE = re.compile(r"negative(?:_([0-9]+))?")


@dataclass(frozen=True)
class TrainingRow:
    """One query with documents to tell apart.

    Attributes:
        query: The query.
        positive: A relevant document; of a row that a teacher alone has judged, the one that it scores highest.
        negatives: Documents that are not relevant, or less so. Empty for a single pair with its score.
        scores: A teacher's scores of the positive and then of each negative, or None.
        source: Where the row came from, for messages: file and line, or the query's id.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...] | None
    source: str

    @property
    def documents(self) -> tuple[str, ...]:
        """The positive, then the negatives."""
        return (self.positive, *self.negatives)


def parse_row(line: bytes | str, source: str, most: int) -> TrainingRow:
    """Read one line of JSON; see ``make_row``."""
    return make_row(json.loads(line), source, most)


def make_row(row: Any, source: str, most: int) -> TrainingRow:
    """Make a row of a dictionary, as a line of JSON or of a table holds it.

    Three forms: ``query``, ``positive``, ``negatives`` and perhaps ``scores``, one for the positive and one for each
    negative; ``query``, ``documents`` and ``scores``, where the document with the highest score takes the place of the
    positive; ``query``, ``document`` and ``score``, one pair. Of sentence-transformers' own rows, ``anchor`` stands for
    ``query``, and ``negative``, ``negative_1``, ``negative_2``, ... in the order of their numbers for ``negatives``; those
    that are null are not there. Other fields are passed over.

    Args:
        row: The dictionary; anything else is refused.
        source: Where it lies, for messages.
        most: Of more negatives, the first are taken.

    Raises:
        ValueError: If a field is missing or of the wrong type, a query is empty, a row has no negatives, or the scores
            are not as many as the documents or not finite; names the field, but not yet the line.
    """
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    row = _one_form(_own_names(row))
    if missing := [name for name in ("query", "positive", "negatives") if name not in row]:
        raise ValueError(f"the field {missing[0]!r} is missing")
    check_query(row["query"], "query")
    check_text(row["positive"], "positive:")
    negatives = row["negatives"]
    if not isinstance(negatives, list) or not (negatives or "pair" in row):
        raise ValueError("negatives: must be a list of at least one text")
    for place, text in enumerate(negatives):
        check_text(text, f"negatives: text {place}")
    scores = row.get("scores")
    if scores is not None:
        check_scores(scores, len(negatives) + 1)
        scores = tuple(float(score) for score in scores[: most + 1])
    return TrainingRow(row["query"], row["positive"], tuple(negatives[:most]), scores, source)


def _own_names(row: dict[str, Any]) -> dict[str, Any]:
    """A row of sentence-transformers (``anchor``, ``positive``, ``negative``, ``negative_1``, ...) with our names."""
    numbers = {name: match for name in row if isinstance(name, str) and (match := NEGATIVE.fullmatch(name))}
    is_theirs = ("negatives" not in row and bool(numbers)) or ("anchor" in row and "query" not in row)
    if not is_theirs or "documents" in row or "document" in row:
        return row
    if "label" in row:
        raise ValueError('a field "label"; a teacher\'s scores are called "scores", one for each document')
    made = dict(row)
    if "query" not in row and "anchor" in row:
        check_query(row["anchor"], "anchor")
        made["query"] = row["anchor"]
    if "negatives" not in row:
        names = sorted((name for name in numbers if row[name] is not None), key=lambda name: int(numbers[name][1] or 0))
        if not names:
            raise ValueError("the field 'negative' (or 'negative_1', ...) is missing")
        for name in names:
            check_text(row[name], f"{name}:")
        made["negatives"] = [row[name] for name in names]
    return made


def _one_form(row: dict[str, Any]) -> dict[str, Any]:
    """The fields ``query``, ``positive``, ``negatives``, ``scores``, whichever form the line has."""
    if "document" in row and "score" in row:
        return {**row, "positive": row["document"], "negatives": [], "scores": [row["score"]], "pair": True}
    if "score" in row or "labels" in row:
        raise ValueError('a field "score" or "labels"; a teacher\'s scores are called "scores"')
    if "documents" not in row:
        return row
    documents: Any = row["documents"]
    scores: Any = row.get("scores")
    if not isinstance(documents, list) or not documents:
        raise ValueError("documents: must be a list of at least one text")
    if scores is None:
        raise ValueError("scores: documents that nobody has judged need a teacher's scores (mice-st label)")
    check_scores(scores, len(documents))
    best = max(range(len(scores)), key=lambda place: scores[place])
    order = [best, *(place for place in range(len(documents)) if place != best)]
    documents, scores = [documents[place] for place in order], [scores[place] for place in order]
    return {**row, "positive": documents[0], "negatives": documents[1:], "scores": scores, "pair": True}


def check_scores(scores: Any, expected: int) -> None:
    """Refuse what is not one finite number for each document."""
    if not isinstance(scores, list) or len(scores) != expected:
        raise ValueError(
            f"scores: expected {expected} numbers, one for the positive and one for each negative, got "
            + (str(len(scores)) if isinstance(scores, list) else type(scores).__name__)
        )
    for place, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"scores: number {place} is {score!r}")


def check_query(query: Any, name: str) -> None:
    """Refuse a query that is no text, or an empty one."""
    check_text(query, f"{name}:")
    if not query.strip():
        raise ValueError(f"{name}: the text of the query is empty")


def check_same(row: TrainingRow, first: TrainingRow) -> None:
    """Refuse a row with scores among rows without, or the other way round."""
    if (row.scores is None) != (first.scores is None):
        raise ValueError(f"{row.source}: scores: given in one of this row and that of {first.source}, not in both")
