"""One shard of labelling: consecutive lines of a file, read, scored by the teachers and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mice_st.modeling.st_mice import check_text
from mice_st.training.row_format import check_query
from mice_st.training.teachers import Teachers


@dataclass(frozen=True)
class Shard:
    """Consecutive lines of a file.

    Attributes:
        path: The file.
        first_line: Number of the first line, from 1.
        lines: The lines; those that are blank are there too.
        target: File for the labelled rows.
        positive_bonus: Added to the score of a row's positive.
    """

    path: str
    first_line: int
    lines: list[bytes]
    target: Path
    positive_bonus: float = 0.0


class Repeats(NamedTuple):
    """Positives that stand among their own negatives.

    Attributes:
        negatives: Negatives with the text of the row's positive, which were dropped.
        rows: Rows that had no other negative, and were passed over.
    """

    negatives: int
    rows: int


def label_shard(teachers: Teachers, shard: Shard) -> Repeats:
    """Score the rows of one shard and write them.

    Returns:
        How many positives stood among their own negatives.

    Raises:
        ValueError: If a line is no row, or a score is not finite; gives file and line.
    """
    rows, repeats = parse_rows(shard)
    documents = [row_documents(row) for row in rows]
    try:
        scores = teachers.score([row["query"] for row in rows], documents) if rows else []
    except ValueError as error:
        raise ValueError(
            f"{shard.path}, lines {shard.first_line} to {shard.first_line + len(shard.lines) - 1}: {error}"
        ) from error
    for row, given in zip(rows, scores, strict=True):
        if "documents" not in row:
            given[0] += shard.positive_bonus
    temporary = shard.target.with_suffix(".tmp")
    labelled = (json.dumps({**row, "scores": given}) + "\n" for row, given in zip(rows, scores, strict=True))
    temporary.write_text("".join(labelled), encoding="utf-8")
    temporary.replace(shard.target)
    return repeats


def parse_rows(shard: Shard) -> tuple[list[dict[str, Any]], Repeats]:
    """The rows of a shard, without negatives that have the text of their row's positive: no teacher tells them apart.

    Returns:
        The rows, and what was dropped of them.

    Raises:
        ValueError: If a line is no row; gives file and line.
    """
    rows: list[dict[str, Any]] = []
    dropped, passed_over = 0, 0
    for number, line in enumerate(shard.lines, start=shard.first_line):
        if line.strip():
            try:
                row = _parse(line)
            except ValueError as error:
                raise ValueError(f"{shard.path}, line {number}: {error}") from error
            if "documents" not in row:
                others = [text for text in row["negatives"] if text != row["positive"]]
                dropped += len(row["negatives"]) - len(others)
                row["negatives"] = others
                if not others:
                    passed_over += 1
                    continue
            rows.append(row)
    return rows, Repeats(dropped, passed_over)


def _parse(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    if "query" not in row:
        raise ValueError("the field 'query' is missing")
    check_query(row["query"], "query")
    names = ("documents",) if "documents" in row else ("positive", "negatives")
    for name in names:
        if name not in row:
            raise ValueError(f"the field {name!r} is missing")
        texts = [row[name]] if name == "positive" else row[name]
        if not isinstance(texts, list) or not texts:
            raise ValueError(f"{name}: must be a list of at least one text")
        for place, text in enumerate(texts):
            check_text(text, f"{name}: text {place}")
    return row


def row_documents(row: dict[str, Any]) -> list[str]:
    """The documents of a row, the positive first where it has one."""
    return row["documents"] if "documents" in row else [row["positive"], *row["negatives"]]
