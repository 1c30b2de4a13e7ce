"""Reading and checking a whole Lance store: every row, that no id has two, and that the words are those of the texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .errors import StoreCorruptError, StoreError
from .identity import Tokenizer
from .lance_files import DOCUMENT_COLUMNS, ROW_COLUMNS, STATE_COLUMNS, WORD_COLUMNS, as_columns
from .reports import DamagedDocument
from .rows import DocumentRow, RowFormat, StateRow


def verify_rows(rows: Iterable[tuple], form: RowFormat, tokenizer: Tokenizer) -> tuple[int, int, list[str]]:
    """Check all rows of a store.

    Args:
        rows: With the columns ``ROW_COLUMNS``.
        form: Of the store.
        tokenizer: Of the store.

    Returns:
        Sound documents, their tokens, and one line per problem.
    """
    problems: list[str] = []
    documents = tokens = 0
    try:
        for row, problem in _checked(rows, form, tokenizer):
            if problem is None:
                documents, tokens = documents + 1, tokens + row["n_tokens"]
            else:
                problems.append(problem)
    except StoreError as error:
        problems.append(str(error))
    return documents, tokens, problems


def damaged_documents(rows: Iterable[tuple], form: RowFormat, tokenizer: Tokenizer) -> list[DamagedDocument]:
    """Documents whose rows are not as they were written, or that have two, and what of them is still sound.

    Args:
        rows: With the columns ``ROW_COLUMNS``.
        form: Of the store.
        tokenizer: Of the store.
    """
    found: dict[str, DamagedDocument] = {}
    for row, problem in _checked(rows, form, tokenizer):
        if problem is not None:
            text = metadata = None
            try:
                light = DocumentRow(*(row[column] for column in DOCUMENT_COLUMNS))
                form.check_document(light)
                text, metadata = light.text, light.metadata
            except StoreCorruptError:
                pass  # the text cannot be trusted either
            found[row["id"]] = DamagedDocument(row["id"], None, text, metadata)
    return list(found.values())


def _checked(
    rows: Iterable[tuple], form: RowFormat, tokenizer: Tokenizer
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every row, and what is wrong with it."""
    seen: set[str] = set()
    for values in rows:
        row = dict(zip(ROW_COLUMNS, values, strict=True))
        try:
            if row["id"] in seen:
                raise StoreCorruptError(f"document {row['id']!r} is stored twice")
            _check(row, form, tokenizer)
        except StoreCorruptError as error:
            yield row, str(error)
        else:
            yield row, None
        seen.add(row["id"])


def _check(row: Mapping[str, Any], form: RowFormat, tokenizer: Tokenizer) -> None:
    state = StateRow(*(row[column] for column in STATE_COLUMNS))
    light = DocumentRow(*(row[column] for column in DOCUMENT_COLUMNS))
    form.check_state(state, state.id)
    form.check_document(light)
    right = as_columns(state, light, tokenizer)
    if any(row[column] != right[column] for column in WORD_COLUMNS):
        raise StoreCorruptError(f"document {state.id!r}: its words are not those of its text; `repair` makes them anew")
