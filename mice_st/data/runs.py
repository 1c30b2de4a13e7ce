"""Runs: the scores of documents for queries, and the files in TREC format that hold them.

A run is a dict: query id -> document id -> score, larger is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

Run = dict[str, dict[str, float]]


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
        check_finite(query_id, scores)
        for rank, document_id in enumerate(sorted(scores, key=lambda item: -scores[item]), start=1):
            _check_field(document_id, "document id")
            lines.append(f"{query_id} Q0 {document_id} {rank} {float(scores[document_id])!r} {tag}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_run(path: str | Path) -> Run:
    """Read a run in TREC format by its scores, as trec_eval does: the ranks that the file gives are not looked at.

    Args:
        path: The file; its lines can be in any order, and those that are blank are passed over. A byte order mark is no part of it.

    Returns:
        Query id -> document id -> score, best first. Equal scores are ordered by document id, the larger one (as a string) first; scores
        are compared as the 64-bit numbers they are, where trec_eval rounds them to 32 bits and so sees more ties.

    Raises:
        ValueError: If a line is not UTF-8, has not six fields or a score that is no finite number, or names a document again for its
            query; the message gives file and line.
    """
    run: Run = {}
    lines_of: dict[tuple[str, str], int] = {}
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                query_id, document_id, score = _parse_run_line(text)
                first = lines_of.setdefault((query_id, document_id), number)
                if first != number:
                    raise ValueError(
                        f"document {document_id!r} is there twice for query {query_id!r}, first in line {first}"
                    )
            except ValueError as error:  # UnicodeDecodeError is one too
                raise ValueError(f"{path}, line {number}: {error}") from error
            run.setdefault(query_id, {})[document_id] = score
    return {query_id: dict(order_by_score(scores)) for query_id, scores in run.items()}


def order_by_score(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents with their scores, best first, equal scores by the larger id: trec_eval's order."""
    return sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)


def check_finite(query_id: str, scores: Mapping[str, float]) -> None:
    """Refuse scores that order nothing.

    Raises:
        ValueError: If a score is NaN or infinite; names query and document.
    """
    for document_id, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"query {query_id!r}, document {document_id!r}: the score is {float(score)}")


def _parse_run_line(line: str) -> tuple[str, str, float]:
    """One line of a run file; errors do not yet say where."""
    fields = line.split()
    if len(fields) != 6:
        raise ValueError(f"expected 6 fields (query Q0 document rank score tag), found {len(fields)}")
    query_id, _, document_id, _, score_field, _ = fields
    try:
        score = float(score_field)
    except ValueError as error:
        raise ValueError(f"the score must be a number, not {score_field!r}") from error
    if not math.isfinite(score):
        raise ValueError(f"the score of document {document_id!r} for query {query_id!r} is {score_field}")
    return query_id, document_id, score


def _check_field(value: str, what: str) -> None:
    """Refuse what would shift the fields of a run file."""
    if len(value.split()) != 1 or value != value.strip():
        raise ValueError(f"the {what} {value!r} is empty or holds white space, which a run file cannot hold")
