"""Relevance judgements: files of BEIR and of TREC, and what is done with lines that do not fit the collection.

Judgements that people publish have faults that move no figure, and some that do. Those that any evaluation passes over (an unknown query, a
line that is there twice, a grade written ``1.0``) are counted in one warning; ``strict`` refuses the first of them. A line without a
meaning (a grade that is no whole number, missing fields) is always refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

QRELS_HEADER = "query-id\tcorpus-id\tscore"
# Ends of the files of a split, the first that exists is read.
SUFFIXES = (".tsv", ".qrels", ".txt")

INTEGER = re.compile(r"[+-]?[0-9]+")
DECIMAL_INTEGER = re.compile(r"([+-]?[0-9]+)\.0*")

UNKNOWN_QUERY = "name a query that the collection does not have (passed over)"
MISSING_DOCUMENT = "name a document that the corpus does not have (kept: nothing can find it, as in BEIR and trec_eval)"
TWICE = "repeat an earlier one (counted once)"
OTHER_GRADE = "give an earlier one another grade (the later grade counts, as in BEIR and mteb)"
DECIMAL = "have a grade such as 1.0 (read as a whole number)"


def find_judgements(folder: Path, split: str) -> Path:
    """The file of a split: ``qrels/<split>`` with one of ``SUFFIXES``.

    Raises:
        FileNotFoundError: If there is none; lists the splits that there are.
    """
    for suffix in SUFFIXES:
        file = folder / "qrels" / f"{split}{suffix}"
        if file.is_file():
            return file
    found = (file.stem for suffix in SUFFIXES for file in folder.glob(f"qrels/*{suffix}"))
    available = ", ".join(sorted(set(found))) or "none"
    raise FileNotFoundError(f"no split {split!r} in {folder}; available: {available}")


def read_judgements(
    file: Path, queries: Container[str], corpus: Container[str], strict: bool = False
) -> dict[str, dict[str, int]]:
    """Read judgements in BEIR's or in TREC's format.

    BEIR's has three fields separated by tabs, query, document and grade, perhaps below the header ``query-id corpus-id score``; TREC's has
    four, query, anything, document and grade, separated by tabs or spaces. The first line decides.

    Args:
        file: The file, UTF-8; a byte order mark and blank lines are passed over.
        queries: Ids of the collection's queries.
        corpus: Ids of its documents.
        strict: Refuse what is otherwise counted in one warning.

    Returns:
        Query id -> document id -> grade. A document that the corpus lacks keeps its grade: what cannot be found is missed.

    Raises:
        ValueError: If a line is not UTF-8, has another number of fields, an empty id or a grade that is no whole number; with ``strict``
            also if it names an unknown query or document, is there twice, or has a grade such as ``1.0``. Gives file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    faults: dict[str, tuple[int, str]] = {}  # kind -> how many, and where the first one is

    def count(kind: str, number: int, what: str) -> None:
        if strict:
            raise ValueError(what)
        times, first = faults.get(kind, (0, f"line {number}: {what}"))
        faults[kind] = times + 1, first

    for number, fields in _fields(file):
        try:
            query_id, document_id, written = fields
            if not query_id or not document_id:
                raise ValueError("the id of the query or of the document is empty")
            grade = _grade(written)
            if not INTEGER.fullmatch(written):
                count(DECIMAL, number, f"the score must be an integer, not {written!r}")
            if query_id not in queries:
                count(UNKNOWN_QUERY, number, f"query {query_id!r} is not in the collection")
                continue
            if document_id not in corpus:
                count(MISSING_DOCUMENT, number, f"document {document_id!r} is not in the corpus")
            before = qrels.get(query_id, {}).get(document_id)
            if before is not None:
                kind = TWICE if before == grade else OTHER_GRADE
                count(kind, number, f"query {query_id!r} with document {document_id!r} is judged twice")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        qrels.setdefault(query_id, {})[document_id] = grade
    if faults:
        told = "; ".join(f"{times} {kind}, the first in {first}" for kind, (times, first) in faults.items())
        logger.warning("%s: of the judgements, %s. strict refuses them", file, told)
    return qrels


def _fields(file: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Line numbers from 1, with query, document and grade as they are written."""
    separator, width = "\t", 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if not text.strip():
                    continue
                if not width:
                    separator, width = _layout(text)
                    if text.split("\t") == QRELS_HEADER.split("\t"):
                        continue
                fields = text.split("\t") if separator == "\t" else text.split()
                if len(fields) != width:
                    named = "tabs" if separator == "\t" else "white space"
                    raise ValueError(f"expected {width} fields separated by {named}, found {len(fields)}")
            except ValueError as error:  # UnicodeDecodeError is one too
                raise ValueError(f"{file}, line {number}: {error}") from error
            query_id, document_id, grade = (fields[0], *fields[-2:])
            yield number, (query_id, document_id, grade.strip())


def _layout(first: str) -> tuple[str, int]:
    """Separator and number of fields of a file, from its first line."""
    tabbed, spaced = first.split("\t"), first.split()
    if len(tabbed) in (3, 4):
        fields = tabbed
        if len(tabbed) == 4 or tabbed == QRELS_HEADER.split("\t") or _is_number(tabbed[2]):
            return "\t", len(tabbed)
    elif len(spaced) == 4 and len(tabbed) == 1:
        return " ", 4
    else:
        raise ValueError(
            f"expected 3 fields separated by tabs (query, document, score) or the 4 of TREC, found {first!r}"
        )
    raise ValueError(f"the header must be query-id, corpus-id, score, separated by tabs, not {fields!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _grade(written: str) -> int:
    decimal = DECIMAL_INTEGER.fullmatch(written)
    if decimal is None and not INTEGER.fullmatch(written):
        raise ValueError(f"the score must be an integer, not {written!r}")
    return int(decimal[1] if decimal else written)
