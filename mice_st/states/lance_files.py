"""How a Lance dataset holds document states, and what its errors mean. Needs the extra ``lance``.

A row is one document: its light and its heavy half with their CRC-32, and the words of its text, which follow from the
text and the store's tokenizer. Fingerprint and settings are metadata of the schema, so that a commit can change them
together with all rows.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from .identity import Fingerprint, StoreSettings, Tokenizer
from .lance_extra import lance, pa
from .lance_terms import text_terms
from .rows import DocumentRow, StateRow

IDS_PER_QUERY = 1000
OPEN_TRIES = 20
ROWS_PER_BATCH = 256  # of heavy rows, some 30 KB each

STATE_COLUMNS = ["id", "content_hash", "n_tokens", "crc", "input_ids", "scales", "payload"]
DOCUMENT_COLUMNS = ["id", "content_hash", "n_tokens", "document_crc", "text", "metadata", "pooled"]
WORD_COLUMNS = ["words", "counts", "n_words"]
ROW_COLUMNS = [*STATE_COLUMNS, *DOCUMENT_COLUMNS[3:], *WORD_COLUMNS]


class Identity(NamedTuple):
    """What the schema says of a store: its fingerprint, its settings, and a name that no other store has."""

    fingerprint: Fingerprint
    settings: StoreSettings
    name: str


def new_identity(fingerprint: Fingerprint, settings: StoreSettings) -> Identity:
    """The identity of a store that is about to be created."""
    return Identity(fingerprint, settings, uuid.uuid4().hex)


def schema(identity: Identity) -> pa.Schema:
    """Columns of a row, with the identity and its CRC-32 as metadata."""
    values = {
        "mice_st.fingerprint": identity.fingerprint.to_json(),
        "mice_st.settings": identity.settings.to_json(),
        "mice_st.name": identity.name,
    }
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("crc", pa.uint32(), nullable=False),
            pa.field("input_ids", pa.large_binary(), nullable=False),
            pa.field("scales", pa.large_binary(), nullable=False),
            pa.field("payload", pa.large_binary(), nullable=False),
            pa.field("document_crc", pa.uint32(), nullable=False),
            pa.field("text", pa.large_string()),
            pa.field("metadata", pa.large_string()),
            pa.field("pooled", pa.large_binary()),
            pa.field("words", pa.list_(pa.string())),
            pa.field("counts", pa.list_(pa.int32())),
            pa.field("n_words", pa.int32()),
        ],
        metadata={**values, "mice_st.crc": str(_crc(*values.values()))},
    )


def _crc(*lines: str) -> int:
    return zlib.crc32("\n".join(lines).encode())


def read_identity(dataset: Any, uri: str) -> Identity:
    """The fingerprint and settings of a dataset.

    Raises:
        StoreCorruptError: If they are damaged or this is no store.
        StoreVersionError: If another version of the format wrote it.
    """
    with translated(uri, "reading its fingerprint"):
        stored = {key.decode(): value.decode() for key, value in (dataset.schema.metadata or {}).items()}
    fingerprint = stored.get("mice_st.fingerprint", "")
    settings, name = stored.get("mice_st.settings", ""), stored.get("mice_st.name", "")
    first_format = not settings and stored.get("mice_st.crc") == str(_crc(fingerprint))  # version 1 had no settings
    if not first_format and stored.get("mice_st.crc") != str(_crc(fingerprint, settings, name)):
        raise StoreCorruptError(f"{uri} is damaged or no store of document states (fingerprint)")
    return Identity(Fingerprint.from_json(fingerprint), StoreSettings.from_json(settings), name)


def id_filter(ids: Sequence[str]) -> str:
    """The condition that selects rows by id."""
    return f"id IN ({', '.join(map(quoted, ids))})"


def quoted(value: str) -> str:
    """A string as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def translate(error: BaseException, uri: str, doing: str) -> StoreError:
    """The store's own exception for one of Lance's: OSError, ValueError, RuntimeError or a panic of its Rust code."""
    message = f"{uri}: {doing} failed: {error}"
    low = str(error).lower()
    kinds: tuple[tuple[type[StoreError], tuple[str, ...]], ...] = (
        (StoreNotFoundError, ("not found",)),
        (StoreFullError, ("no space left", "file too large", "quota")),
        (StoreReadOnlyError, ("permission denied", "read-only file system", "accessdenied", "forbidden")),
        (StoreLockedError, ("commit conflict", "too many concurrent writers", "retryable")),
    )
    for kind, signs in kinds:
        if any(sign in low for sign in signs):
            return kind(message)
    remote = "://" in uri  # there, a failing network or missing credentials are likelier than damage
    return StoreError(message) if remote else StoreCorruptError(message)


@contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Let only the store's own exceptions out of a block that uses Lance."""
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise translate(error, uri, doing) from error
        raise


def open_dataset(uri: str, storage_options: dict[str, str] | None) -> Any:
    """Open the latest version of a dataset.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        storage_options: Credentials and endpoints.

    Raises:
        StoreNotFoundError: If there is none.
    """
    for _ in range(OPEN_TRIES):
        try:
            with translated(uri, "opening"):
                return lance.dataset(uri, storage_options=storage_options)
        except StoreNotFoundError as error:
            if ".manifest" not in str(error):
                raise
            missing = error  # the version that was the latest a moment ago has been superseded and removed
    raise missing


def read_table(source: Any, uri: str, columns: Sequence[str] | Mapping[str, str], **options: Any) -> Any:
    """Rows of a dataset or a fragment.

    Args:
        source: To read from.
        uri: Of the store, for messages.
        columns: Names, or names and the expressions that give them.
        **options: As ``scanner`` takes them: ``filter``, ``limit``, ``with_row_address``.
    """
    wanted = dict(columns) if isinstance(columns, Mapping) else list(columns)
    with translated(uri, "reading"):
        return source.scanner(columns=wanted, **options).to_table()


def as_rows(batch: Any, columns: Sequence[str]) -> list[tuple]:
    """The rows of a table or record batch as tuples of Python values."""
    return list(zip(*(batch[column].to_pylist() for column in columns), strict=True))


def select_rows(dataset: Any, uri: str, ids: Sequence[str], columns: Mapping[str, str]) -> dict[str, tuple]:
    """Stored rows by id; of an id that has two rows, which only other programs write, the one that was added later.

    Args:
        dataset: To read from.
        uri: Of the store, for messages.
        ids: In any order; unknown ones are left out of the result.
        columns: Names and the expressions that give them, ``id`` first.
    """
    by_id: dict[str, tuple] = {}
    unique = sorted(set(ids))
    for start in range(0, len(unique), IDS_PER_QUERY):
        condition = id_filter(unique[start : start + IDS_PER_QUERY])
        table = read_table(dataset, uri, columns, filter=condition, with_row_address=True)
        rows = as_rows(table, [*columns, "_rowaddr"])
        by_id |= {row[0]: row[:-1] for row in sorted(rows, key=lambda row: row[-1])}
    return by_id


def addresses_of(dataset: Any, uri: str, ids: Sequence[str]) -> dict[str, list[int]]:
    """Where the rows of these ids lie, ``fragment << 32 | offset``, in rising order; unknown ids are left out."""
    found: dict[str, list[int]] = {}
    for start in range(0, len(ids), IDS_PER_QUERY):
        condition = id_filter(ids[start : start + IDS_PER_QUERY])
        table = read_table(dataset, uri, ["id"], filter=condition, with_row_address=True)
        for id_, address in as_rows(table, ["id", "_rowaddr"]):
            found.setdefault(id_, []).append(address)
    return {id_: sorted(addresses) for id_, addresses in found.items()}


def as_table(rows: Sequence[tuple[StateRow, DocumentRow]], identity: Identity) -> Any:
    """Documents as an Arrow table."""
    tokenizer = identity.settings.tokenizer
    return pa.Table.from_pylist([as_columns(*row, tokenizer) for row in rows], schema=schema(identity))


def size_in_bytes(dataset: Any) -> int:
    """Bytes of all files of a dataset, old versions included."""
    return sum(sum(batch["size_bytes"].to_pylist()) for batch in dataset.all_files())


def as_columns(state: StateRow, light: DocumentRow, tokenizer: Tokenizer) -> dict[str, Any]:
    """One document's two rows, and the words of its text, as the columns of the schema."""
    words: dict[str, Any] = dict.fromkeys(WORD_COLUMNS)
    if light.text is not None:
        counts, words["n_words"] = text_terms(light.text, tokenizer)
        words["words"], words["counts"] = list(counts), list(counts.values())
    return {**light._asdict(), **state._asdict(), "document_crc": light.crc, **words}
