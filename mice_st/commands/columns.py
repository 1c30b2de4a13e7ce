"""What several commands' flags say about where id and text of documents are: one wording, one meaning."""

from __future__ import annotations

ID_COLUMN = {"help": "Column or field of the id (default: _id, or id).", "metavar": "NAME"}
TEXT_COLUMNS = {
    "help": "Columns or fields of the text, joined with a space (default: title, if there is one, and text).",
    "metavar": "NAME",
}
