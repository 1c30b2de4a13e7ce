"""Lance stores of version 1 become stores of this version in one commit; nothing is encoded anew."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

from .errors import StoreCorruptError, StoreError
from .identity import FORMAT_VERSION, Fingerprint, StoreSettings
from .lance_commit import LOCK_SECONDS, overwrite, taking_turns, until_it_follows, write_rows
from .lance_extra import pa
from .lance_files import (
    ROWS_PER_BATCH,
    Identity,
    as_rows,
    as_table,
    new_identity,
    open_dataset,
    read_table,
    schema,
    translated,
)
from .rows import DocumentRow, RowFormat, StateRow

_COLUMNS = ["id", "content_hash", "n_tokens", "crc", "input_ids", "scales", "payload", "document_crc", "text", "pooled"]


def upgrade_lance(uri: str, storage_options: dict[str, str] | None = None) -> int:
    """Turn a store of version 1 into one of this version.

    Args:
        uri: The store. Who has it open is told to open it anew.
        storage_options: Credentials and endpoints.

    Returns:
        How many documents it has; the store is left alone where it has this version already.

    Raises:
        StoreNotFoundError: If there is no store.
        StoreCorruptError: If a row is damaged (names the document), or this is no store. Nothing has changed then.
    """

    def attempt(newest: Any) -> int:
        line = (newest.schema.metadata or {}).get(b"mice_st.fingerprint", b"")
        version = _version_of(line, uri)
        if version == FORMAT_VERSION:
            return int(newest.count_rows())
        if version != 1:
            raise StoreError(f"{uri}: format version {version} cannot be upgraded from")
        if newest.schema.metadata.get(b"mice_st.crc") != str(zlib.crc32(line)).encode():
            raise StoreCorruptError(f"{uri}: the fingerprint is damaged (CRC-32 does not match)")
        values = json.loads(line) | {"format_version": FORMAT_VERSION}
        identity = new_identity(Fingerprint(**values), StoreSettings())
        rows = pa.RecordBatchReader.from_batches(schema(identity), _version_1(newest, uri, identity, zlib.crc32(line)))
        fragments = write_rows(uri, rows, identity, storage_options, "overwrite")
        return int(overwrite(uri, newest.version, identity, fragments, storage_options).count_rows())

    open_dataset(uri, storage_options)  # before a lock file would lie beside nothing
    with taking_turns(uri, LOCK_SECONDS):
        return int(until_it_follows(uri, lambda: open_dataset(uri, storage_options), attempt, "upgrading"))


def _version_of(line: bytes, uri: str) -> object:
    try:
        return json.loads(line).get("format_version")
    except (AttributeError, ValueError) as error:
        raise StoreCorruptError(f"{uri} is damaged or no store of document states (fingerprint)") from error


def _version_1(dataset: Any, uri: str, identity: Identity, seed: int) -> Iterator[Any]:
    """Checked rows of a version 1, signed as those of this version; of an id with two rows, the later one."""
    form, before = RowFormat(identity.fingerprint), RowFormat(identity.fingerprint)
    before.seed = seed  # rows were signed with the fingerprint as it was written then
    table = read_table(dataset, uri, ["id"], with_row_address=True)
    last = dict(sorted(as_rows(table, ["id", "_rowaddr"]), key=lambda row: row[1]))
    with translated(uri, "reading"):
        batches = dataset.scanner(columns=_COLUMNS, with_row_address=True, batch_size=ROWS_PER_BATCH).to_batches()
    for batch in batches:
        rows = []
        for *values, address in as_rows(batch, [*_COLUMNS, "_rowaddr"]):
            state = StateRow._make(values[:7])
            document_crc, text, pooled = values[7:]
            if last[state.id] != address:
                continue
            before.check_state(state, state.id)
            if _document_crc(state, text, pooled, seed) != document_crc:
                raise StoreCorruptError(f"document {state.id!r}: its text or pooled vector is damaged")
            light = DocumentRow(state.id, state.content_hash, state.n_tokens, 0, text, None, pooled)
            rows.append((form.signed_state(state), form.signed(light)))
        yield from as_table(rows, identity).to_batches()


def _document_crc(state: StateRow, text: str | None, pooled: bytes | None, seed: int) -> int:
    sizes = f"{-1 if text is None else len(text)}\0{-1 if pooled is None else len(pooled)}"
    crc = zlib.crc32(f"{state.id}\0{state.content_hash}\0{state.n_tokens}\0{sizes}".encode(), seed)
    return zlib.crc32(pooled or b"", zlib.crc32((text or "").encode(), crc))
