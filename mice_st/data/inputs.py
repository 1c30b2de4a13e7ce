"""Documents and pairs as users have them in memory: lists, data frames, datasets, LangChain's documents, generators of these.

Everything that ranks or indexes takes them through here, so that each is right everywhere, or one error names the row, from 0. No package
of tables is imported: what has columns is recognised by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mice_st.modeling.layers_mice import DocumentStates
from mice_st.modeling.st_mice import check_text, is_states

from .documents import Columns, Document, check_id, check_metadata

COLUMNS = Columns()


def as_texts(documents: Any, name: str = "documents", window: int | None = None) -> list[str | DocumentStates]:
    """Documents by their position, as texts or states.

    Args:
        documents: Strings or ``DocumentStates``, or what else ``as_documents`` takes, of which the ids are not read: in a list, tuple, array,
            Series or generator, or as a table with the column ``text`` and perhaps ``title``. The place of each is its position, whatever
            index a Series or data frame has.
        name: What an error calls them.
        window: Characters of each that are read; None for all. What lies behind may hold what no tokenizer takes.

    Returns:
        Texts, a title put before each, or the states as they are.

    Raises:
        ValueError: If there is no order (a set) or are no positions (a mapping), a table has no column ``text``, or a row is no document;
            gives its position.
    """
    refuse_one(documents, name)
    if isinstance(documents, Mapping) and not _columns(documents, name):
        raise ValueError(
            f"{name}: a mapping has ids in place of positions; give list(documents.values()), and find ids in list(documents)."
        )
    return [as_text(row, f"document {place}", window) for place, row in enumerate(_rows(documents, name))]


def as_text(document: Any, name: str, window: int | None = None) -> str | DocumentStates:
    """One row of ``as_texts`` as its text or its states.

    Args:
        document: The row.
        name: What an error calls it.
        window: As for ``as_texts``.

    Raises:
        ValueError: If it is no text, or holds a lone surrogate within the window.
    """
    if is_states(document):
        return document  # type: ignore[no-any-return]
    if isinstance(document, Mapping) and "text" in document:
        document = _titled(document, name)
    elif hasattr(document, "page_content"):  # LangChain's
        document = document.page_content
    elif isinstance(document, tuple) and 2 <= len(document) <= 3:
        document = document[1]
    check_text(document, name, window)
    return document  # type: ignore[no-any-return]


def as_documents(documents: Any) -> Iterator[Document]:
    """Documents with their ids, one after the other; whether an id is there twice is not looked at.

    Args:
        documents: A mapping of id to text, or of id to a mapping with ``text``; a table (data frame, dataset) with ``_id`` or ``id``,
            ``text`` and perhaps ``title``, whose other columns are metadata; or any iterable of ``Document``, ``(id, text)`` or ``(id, text,
            metadata)``, mappings with ``_id`` or ``id``, ``text`` and perhaps ``title`` and ``metadata``, or LangChain's documents with an id.

    Raises:
        ValueError: If these are none of them, an id is missing or neither a string nor an integer, a text is no string, or metadata are
            nothing that JSON can hold; gives the position from 0. Raised when the iterator reaches it.
    """
    refuse_one(documents, "documents")
    is_table = _columns(documents, "documents") is not None
    rows: Iterable[Any] = _rows(documents, "documents")
    if isinstance(documents, Mapping) and not is_table:
        rows = ((key, value) for key, value in documents.items())
    for place, row in enumerate(rows):
        try:
            yield _document(row, place, is_table)
        except ValueError as error:
            raise ValueError(f"document {place}: {error}") from error


def _document(row: Any, place: int, is_table: bool) -> Document:
    if isinstance(row, Mapping):
        return COLUMNS.entry({name: _plain(value) for name, value in row.items()}, is_table).document
    if hasattr(row, "page_content"):
        item_id, text, metadata = row.id, row.page_content, row.metadata or None  # {} where none was given
    elif isinstance(row, tuple) and 2 <= len(row) <= 3:
        item_id, text, metadata = (*row, None)[:3]
    else:
        raise ValueError(
            f"expected (id, text), a mapping with id and text, or a document with both, got {type(row).__name__}"
        )
    item_id = check_id(_plain(item_id), "id")
    if isinstance(text, Mapping):
        return COLUMNS.entry({**text, "_id": item_id}, False).document
    if not isinstance(text, str):
        raise ValueError(f"the text of {item_id!r} is of type {type(text).__name__}, not a string")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"the metadata of {item_id!r} are of type {type(metadata).__name__}, not a mapping")
    return Document(item_id, text, check_metadata(metadata, item_id))


def as_pairs(inputs: Any) -> tuple[list[Any], bool]:
    """What ``predict`` is given, as a list of pairs.

    Args:
        inputs: Pairs in a list, tuple, array, Series or generator; a table of two columns, query and document; or one pair.

    Returns:
        The pairs, not yet checked, and whether it was one pair by itself.

    Raises:
        ValueError: If it is one text, a set, a mapping, or a table of more or fewer columns; lists these.
    """
    if isinstance(inputs, (str, bytes)):
        raise ValueError(f"predict: expected (query, document) pairs, got one {type(inputs).__name__}.")
    if not isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__"):
        raise ValueError(f"pair 0: expected (query, document), got {inputs!r}.")
    refuse_one(inputs, "pairs")
    if columns := _columns(inputs, "pairs"):
        if len(columns) != 2:
            raise ValueError(f"pairs: a table must have two columns, query and document; there are {_list(columns)}.")
        return list(zip(*(_column(inputs, name) for name in columns), strict=True)), False
    if isinstance(inputs, Mapping):
        raise ValueError("pairs: a mapping holds no (query, document) pairs; give list(mapping.items()) if it does.")
    rows = list(_rows(inputs, "pairs"))
    rows = [row.tolist() if _is_array(row) else row for row in rows]
    is_row_of_two = isinstance(inputs, list | tuple) or (_is_array(inputs) and inputs.ndim == 1)
    if is_row_of_two and rows and not isinstance(rows[0], list | tuple):
        return [rows], True
    return rows, False


def refuse_one(documents: Any, name: str) -> None:
    """Refuse what looks like several documents and is not: one text, one document, nothing, a set."""
    if isinstance(documents, (str, bytes)):
        raise ValueError(f"{name}: expected a list of texts, got one {type(documents).__name__}.")
    if isinstance(documents, (set, frozenset)):
        raise ValueError(f"{name}: a set has no order that positions could refer to; give a list.")
    one = isinstance(documents, Mapping) and isinstance(documents.get("text"), str)
    if one or is_states(documents) or isinstance(getattr(documents, "page_content", None), str):
        raise ValueError(f"{name}: expected a list of documents, got one; put it into a list.")
    if not isinstance(documents, Iterable) and not hasattr(documents, "__getitem__"):
        raise ValueError(f"{name}: expected a list of documents, got {type(documents).__name__}.")


def _columns(table: Any, name: str) -> list[Any] | None:
    """Names of the columns of a table, None for anything else; a dictionary of datasets is refused."""
    names = getattr(table, "column_names", None)  # of datasets and pyarrow
    if isinstance(table, Mapping) and names is not None:
        raise ValueError(f"{name}: got a dictionary of datasets; give one of them: {', '.join(map(str, table))}.")
    if names is None and not isinstance(table, Mapping):
        names = getattr(table, "columns", None)  # of pandas and polars
    if names is None or callable(names) or not hasattr(table, "__getitem__"):
        return None
    return list(names)


def _column(table: Any, name: Any) -> list[Any]:
    """The values of a column, in order."""
    column = table[name]
    if hasattr(column, "columns"):
        raise ValueError(f"documents: the column {name!r} is there twice.")
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _rows(documents: Any, name: str) -> Iterable[Any]:
    """What the positions are those of: mappings of a table, the items of anything else."""
    columns = _columns(documents, name)
    if columns is not None:
        if "text" not in columns:
            raise ValueError(f"{name}: a table needs the column 'text'; there are {_list(columns)}.")
        values = zip(*(_column(documents, column) for column in columns), strict=True)
        return (dict(zip(columns, row, strict=True)) for row in values)
    if _is_array(documents):
        if documents.ndim == 0:
            raise ValueError(f"{name}: expected a list of texts, got an array of no dimension.")
        return list(documents.tolist())
    return documents  # type: ignore[no-any-return]


def _list(columns: Sequence[Any]) -> str:
    return ", ".join(map(str, columns)) or "none"


def _titled(row: Mapping[str, Any], name: str) -> str:
    """Title and text of a mapping as one text."""
    text, title = row["text"], _plain(row.get("title"))
    check_text(text, name)
    if title is not None and not isinstance(title, str):
        raise ValueError(f"{name}: the title is of type {type(title).__name__}, not a string.")
    return f"{title} {text}" if title else text


def _is_array(value: Any) -> bool:
    """Whether it is an array of numpy, or of its kind."""
    return hasattr(value, "ndim") and hasattr(value, "dtype") and not hasattr(value, "index")


def _plain(value: Any) -> Any:
    """A cell of a table as Python has it; None where it is missing: NaN, NaT or pandas' NA."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
