"""Documents: what a row of a file, or what a user has in memory, must hold to be one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple


class Document(NamedTuple):
    """One document of a corpus.

    Attributes:
        id: Its id, unique in the corpus.
        text: Its text; a title, where there is one, comes first.
        metadata: What else is known of it, as JSON holds it; None for nothing.
    """

    id: str
    text: str
    metadata: dict[str, Any] | None = None


class Entry(NamedTuple):
    """One document, its title apart.

    Attributes:
        id: Its id.
        title: Its title; empty where there is none, and where columns for the text were named.
        text: Its text.
        metadata: As in ``Document``.
    """

    id: str
    title: str
    text: str
    metadata: dict[str, Any] | None

    @property
    def document(self) -> Document:
        """The title put before the text."""
        return Document(self.id, f"{self.title} {self.text}" if self.title else self.text, self.metadata)


@dataclass(frozen=True)
class Columns:
    """Where id and text of a row are.

    Attributes:
        id: Field of the id; None takes ``_id``, or ``id`` where there is none.
        texts: Fields whose texts are joined with a space; None takes ``title``, if there is one, and ``text``.
    """

    id: str | None = None
    texts: tuple[str, ...] | None = None

    def check(self, names: Sequence[str]) -> None:
        """Refuse a table that lacks the columns; the message lists those that there are."""
        wanted = [self.id] if self.id is not None else [] if {"_id", "id"} & set(names) else ["_id"]
        wanted += self.texts if self.texts is not None else ("text",)
        if missing := [name for name in wanted if name not in names]:
            shown = '"_id" and no "id"' if missing[0] == "_id" and self.id is None else repr(missing[0])
            raise ValueError(
                f"there is no column {shown}; there are {', '.join(names) or 'none'} (id_column and text_columns name them)"
            )

    def entry(self, row: Mapping[str, Any], is_table: bool) -> Entry:
        """One row as a document.

        Args:
            row: Values by field.
            is_table: Whether all other fields are metadata, or those of the object ``metadata`` alone.

        Raises:
            ValueError: If id or text are missing or of another type, or the metadata are nothing that JSON can hold.
        """
        id_name = self.id if self.id is not None else "_id" if "_id" in row else "id"
        item_id = check_id(row.get(id_name), '"_id" and no "id"' if self.id is None else f'"{self.id}"')
        metadata = row.get("metadata")
        if is_table:
            used = {id_name, *(self.texts if self.texts is not None else ("title", "text"))}
            others = {name: value for name, value in row.items() if name not in used}
            metadata = _other_columns(others) if others else None  # a table without such columns says nothing of them
        if metadata is not None and not isinstance(metadata, dict):
            raise ValueError(f'the "metadata" of document {item_id!r} is no object')
        return Entry(item_id, *self._texts(row, item_id), check_metadata(metadata, item_id))

    def _texts(self, row: Mapping[str, Any], item_id: str) -> tuple[str, str]:
        """Title and text."""
        if self.texts is None:
            text, title = row.get("text"), row.get("title")
            if not isinstance(text, str):
                raise ValueError(f'document {item_id!r} has no "text" that is a string')
            if title is not None and not isinstance(title, str):
                raise ValueError(f'the "title" of document {item_id!r} is not a string')
            return title or "", text
        values = [row.get(name) for name in self.texts]
        for name, value in zip(self.texts, values, strict=True):
            if value is not None and not isinstance(value, str):
                raise ValueError(f'the "{name}" of document {item_id!r} is not a string')
        if all(value is None for value in values):
            raise ValueError(f"document {item_id!r} has none of {', '.join(self.texts)}")
        return "", " ".join(value for value in values if value)


def check_id(item_id: Any, missing: str = '"_id" and no "id"') -> str:
    """An id as a string.

    Raises:
        ValueError: If it is missing, empty, or neither a string nor an integer.
    """
    if item_id is None:
        raise ValueError(f"no {missing}")
    # bool is an int to Python; floats are refused because 1.0 and 1 would be two ids for one number.
    if isinstance(item_id, bool) or not isinstance(item_id, str | int):
        raise ValueError(f"the id must be a string or an integer, not {item_id!r:.80}")
    if item_id == "":
        raise ValueError("the id is empty")
    return str(item_id)


def check_metadata(metadata: Mapping[str, Any] | None, item_id: str) -> dict[str, Any] | None:
    """Metadata as JSON holds them: dates and times in ISO 8601, decimal numbers as strings; None where none are given.

    Raises:
        ValueError: If a value is anything else, NaN or infinite, or a name no string; names the document and the field.
    """
    if metadata is None:
        return None
    checked = {}
    for name, value in metadata.items():
        try:
            if not isinstance(name, str):
                raise TypeError(f"its name is of type {type(name).__name__}")
            checked[name] = json_value(value)
            json.dumps(checked[name], allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the metadata {name!r:.80} of document {item_id!r} cannot be JSON: {error}") from error
    return checked


def json_value(value: Any) -> Any:
    """A value as JSON holds it, so that it comes back as it went."""
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the name {odd[0]!r:.80} is no string")
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _other_columns(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that hold neither id nor text, without empty cells; those of a column ``metadata`` of objects among them."""
    inner = row.pop("metadata") if isinstance(row.get("metadata"), dict) else {}
    if both := sorted(inner.keys() & row.keys()):
        raise ValueError(f'the column {both[0]!r} is in the column "metadata" too')
    return inner | {name: value for name, value in row.items() if value is not None and value != ""}
