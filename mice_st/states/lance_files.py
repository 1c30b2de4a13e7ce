"""How a Lance dataset holds document states, and what its errors mean. Needs the extra ``lance``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from .identity import Fingerprint
from .rows import DocumentRow, StateRow

try:
    import lance
    import pyarrow as pa  # type: ignore[import-untyped]  # ships none
except ImportError as error:
    raise ImportError("LanceStore needs the extra `lance`: pip install 'mice-st[lance]'") from error

IDS_PER_QUERY = 1000

STATE_COLUMNS = ["id", "content_hash", "n_tokens", "crc", "input_ids", "scales", "payload"]
DOCUMENT_COLUMNS = ["id", "content_hash", "n_tokens", "document_crc", "text", "pooled"]


def schema(fingerprint: Fingerprint) -> pa.Schema:
    """Columns of a row, with the fingerprint and its CRC-32 as metadata."""
    line = fingerprint.to_json()
    # Without a declared key, two writers that insert the same id at once would both succeed and leave two rows.
    key = {"lance-schema:unenforced-primary-key": "true"}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=key),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("crc", pa.uint32(), nullable=False),
            pa.field("input_ids", pa.large_binary(), nullable=False),
            pa.field("scales", pa.large_binary(), nullable=False),
            pa.field("payload", pa.large_binary(), nullable=False),
            pa.field("document_crc", pa.uint32(), nullable=False),
            pa.field("text", pa.large_string()),
            pa.field("pooled", pa.large_binary()),
        ],
        metadata={"mice_st.fingerprint": line, "mice_st.crc": str(zlib.crc32(line.encode()))},
    )


def id_filter(ids: Sequence[str]) -> str:
    """The condition that selects rows by id."""
    quoted = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)
    return f"id IN ({quoted})"


def translate(error: BaseException, uri: str, doing: str) -> StoreError:
    """The store's own exception for one of Lance's: OSError, ValueError, RuntimeError or a panic of its Rust code."""
    message = f"{uri}: {doing} failed: {error}"
    low = str(error).lower()
    kinds: tuple[tuple[type[StoreError], tuple[str, ...]], ...] = (
        (StoreNotFoundError, ("was not found",)),
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


def open_dataset(uri: str, fingerprint: Fingerprint | None, storage_options: dict[str, str] | None) -> Any:
    """Open a dataset, or create an empty one.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        fingerprint: What to create it with if there is none; None for not at all.
        storage_options: Credentials and endpoints.

    Raises:
        StoreNotFoundError: If there is none and no fingerprint.
    """
    try:
        with translated(uri, "opening"):
            return lance.dataset(uri, storage_options=storage_options)
    except StoreNotFoundError:
        if fingerprint is None:
            raise
    try:
        empty = schema(fingerprint).empty_table()
        return lance.write_dataset(empty, uri, mode="create", storage_options=storage_options)
    except Exception as error:
        if "already exists" not in str(error):
            raise translate(error, uri, "creating") from error
    with translated(uri, "opening"):  # another writer was faster
        return lance.dataset(uri, storage_options=storage_options)


def as_rows(batch: Any, columns: Sequence[str]) -> list[tuple]:
    """The rows of a table or record batch as tuples of Python values."""
    return list(zip(*(batch[column].to_pylist() for column in columns), strict=True))


def select_rows(dataset: Any, uri: str, ids: Sequence[str], columns: Mapping[str, str]) -> dict[str, tuple]:
    """Stored rows by id.

    Args:
        dataset: To read from.
        uri: Of the store, for messages.
        ids: In any order; unknown ones are left out of the result.
        columns: Names and the expressions that give them, ``id`` first.

    Raises:
        StoreCorruptError: If an id has two rows.
    """
    by_id: dict[str, tuple] = {}
    unique = sorted(set(ids))
    for start in range(0, len(unique), IDS_PER_QUERY):
        with translated(uri, "reading"):
            table = dataset.to_table(columns=dict(columns), filter=id_filter(unique[start : start + IDS_PER_QUERY]))
            rows = as_rows(table, list(columns))
        for row in rows:
            if row[0] in by_id:
                raise StoreCorruptError(f"{uri}: document {row[0]!r} is stored twice")
            by_id[row[0]] = row
    return by_id


def as_table(rows: Sequence[tuple[StateRow, DocumentRow]], fingerprint: Fingerprint) -> Any:
    """Documents as an Arrow table."""
    return pa.Table.from_pylist([as_columns(*row) for row in rows], schema=schema(fingerprint))


def size_in_bytes(dataset: Any) -> int:
    """Bytes of all files of a dataset, old versions included."""
    return sum(sum(batch["size_bytes"].to_pylist()) for batch in dataset.all_files())


def read_fingerprint(dataset: Any, uri: str) -> Fingerprint:
    """The fingerprint of an open store.

    Raises:
        StoreCorruptError: If it is damaged or this is no store.
        StoreMismatchError: If another version of the format wrote it.
    """
    metadata = dataset.schema.metadata or {}
    line = metadata.get(b"mice_st.fingerprint", b"")
    if metadata.get(b"mice_st.crc") != str(zlib.crc32(line)).encode():
        raise StoreCorruptError(f"{uri} is damaged or no store of document states (fingerprint)")
    return Fingerprint.from_json(line.decode())


def as_columns(state: StateRow, light: DocumentRow) -> dict[str, Any]:
    """One document's two rows as the columns of the schema."""
    return {**light._asdict(), **state._asdict(), "document_crc": light.crc}
