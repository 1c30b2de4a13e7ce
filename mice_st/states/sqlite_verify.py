"""Reading and checking a whole SQLite store: its structure, every row, and what is made from the rows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .errors import StoreCorruptError, StoreError
from .reports import DamagedDocument
from .rows import DocumentRow, StateRow, read_pooled
from .sqlite_ann import ann_problems
from .sqlite_files import PAGE_BYTES, words_schema
from .sqlite_meta import read_counters, read_keys
from .sqlite_reader import SqliteReader
from .sqlite_search import WORD_COUNTS, is_replaced, vector_file, vectors_definition
from .vectors import norms
from .words import indexed_text

_STATE = "SELECT id, content_hash, n_tokens, crc, input_ids, scales, payload FROM states WHERE key = ?"


def verify_sqlite(store: SqliteReader) -> tuple[int, int, list[str]]:
    """Check a store, one commit of it as far as that can be seen.

    Returns:
        Sound documents, their tokens, and one line per problem.
    """
    problems: list[str] = []
    documents = tokens = 0
    try:
        with store.reading():
            problems += [*structure_problems(store), *_numbers(store)]
            rows = store.documents_by_key()
            for key, light in tqdm(rows, "Verifying", len(store), unit="document", delay=2, leave=False):
                try:
                    tokens += _document(store, key, light)
                    documents += 1
                except StoreError as error:
                    problems.append(str(error))
            if not problems:  # what is made from damaged rows cannot be right
                problems += [*_words(store), *_vectors(store)]
    except StoreError as error:
        problems.append(str(error))
    return documents, tokens, problems


def damaged_documents(store: SqliteReader) -> list[DamagedDocument]:
    """Documents whose rows are not as they were written, and what of them is still sound."""
    found = []
    with store.reading():
        for key, light in store.documents_by_key():
            try:
                _document(store, key, light)
            except StoreCorruptError:
                try:
                    store._format.check_document(light)
                    found.append(DamagedDocument(light.id, key, light.text, light.metadata))
                except StoreCorruptError:
                    found.append(DamagedDocument(str(light.id), key, None, None))
    return found


def structure_problems(store: SqliteReader) -> list[str]:
    """What SQLite finds wrong with the file itself."""
    problems = []
    with store._reader() as connection:
        lines = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        problems += [f"SQLite: {line}" for line in lines if line != "ok"]
        if store.path.stat().st_size % PAGE_BYTES:  # SQLite reads the rest of the last page as zeros
            problems.append("the file ends within a page")
    return problems


def _numbers(store: SqliteReader) -> list[str]:
    with store._reader() as connection:
        n_documents, n_states = connection.execute(
            "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM states)"
        ).fetchone()
    return [] if n_documents == n_states else [f"{n_documents} documents but {n_states} states"]


def _document(store: SqliteReader, key: int, light: DocumentRow) -> int:
    """Tokens of one sound document.

    Raises:
        StoreCorruptError: If it is not.
    """
    store._format.check_document(light)
    with store._reader() as connection:
        row = connection.execute(_STATE, (key,)).fetchone()
    if row is None:
        raise StoreCorruptError(f"document {light.id!r}: its states are missing")
    state = StateRow._make(row)
    store._format.check_state(state, light.id)
    if (state.content_hash, state.n_tokens) != (light.content_hash, light.n_tokens):
        raise StoreCorruptError(f"document {light.id!r}: its two rows disagree")
    return state.n_tokens


def _words(store: SqliteReader) -> list[str]:
    """Compare the full-text index with one made afresh from the texts."""
    tokenizer = store.settings.tokenizer
    fresh = sqlite3.connect("")  # a temporary file
    try:
        fresh.executescript(words_schema(tokenizer))
        fresh.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            (
                (key, indexed_text(light.text, tokenizer))
                for key, light in store.documents_by_key()
                if light.text is not None
            ),
        )
        fresh.execute(WORD_COUNTS)
        count = "SELECT term, doc, cnt FROM temp.word_counts"
        sizes = "SELECT id, sz FROM words_docsize ORDER BY id"
        with store._reader() as connection:
            connection.execute(WORD_COUNTS)
            for what, select in (("words", count), ("lengths", sizes)):
                here, there = connection.execute(select), fresh.execute(select)
                if any(mine != theirs for mine, theirs in zip(here, there, strict=False)) or next(here, None) != next(
                    there, None
                ):
                    return [f"the full-text index does not fit the texts ({what}); `repair` makes it anew"]
    finally:
        fresh.close()
    return []


def _vectors(store: SqliteReader) -> list[str]:
    """Compare the file of vectors with the rows."""
    with store._reader() as connection:
        definition = vectors_definition(connection)
        if definition is None:
            row = connection.execute("SELECT id FROM documents WHERE pooled IS NOT NULL LIMIT 1").fetchone()
            return [] if row is None else [f"document {row[0]!r}: its vector stands in no file of vectors"]
        slots = read_counters(connection).slots
        file = vector_file(Path(store.path), definition)
        mapped = file.map(slots)
        if mapped is None:  # of a commit that is not the latest any more, it may be gone
            lost = [f"{file.path}: not there or too short; `repair` makes it anew"]
            return [] if is_replaced(store.path, definition) else lost
        place_of = {int(key): place for place, key in enumerate(mapped["key"])}
        dead = set(read_keys(connection, "SELECT key FROM dead_slots").tolist())
    living = set()
    for key, light in store.documents_by_key():
        if light.pooled is None:
            continue
        living.add(key)
        place, vector = place_of.get(key), read_pooled(light.pooled)
        norm = norms(vector[None])[0]
        if place is None or not np.array_equal(mapped["vector"][place], vector) or mapped["norm"][place] != norm:
            return [f"document {light.id!r}: its vector differs in {file.path.name}; `repair` makes it anew"]
    if place_of.keys() - dead != living:
        return [f"{file.path.name} holds other documents than the store; `repair` makes it anew"]
    with store._reader() as connection:
        return ann_problems(connection, Path(store.path), definition.generation, mapped)
