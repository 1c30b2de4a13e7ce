"""What is done to a whole Lance store: compacting it, making its words anew, copying it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from .errors import StoreError, StoreLockedError, StoreNotFoundError
from .lance_commit import Superseded, overwrite, until_it_follows, write_rows
from .lance_extra import pa
from .lance_files import (
    DOCUMENT_COLUMNS,
    STATE_COLUMNS,
    Identity,
    as_rows,
    as_table,
    new_identity,
    open_dataset,
    read_identity,
    schema,
    size_in_bytes,
    translated,
)
from .lance_reader import LanceReader
from .reports import CompactReport
from .rows import DocumentRow, StateRow

logger = logging.getLogger(__name__)

COMPACT_TRIES = 5
NEW_ROWS = 10_000  # without an index; a search for words reads them all, in some 20 ms for each word
INDEXES = {"id": "BTREE", "words": "LABEL_LIST"}


def compact_lance(store: LanceReader, keep_versions: timedelta) -> CompactReport:
    """See ``LanceStore.compact``; to be called while other writers of a local store wait."""
    for number in range(COMPACT_TRIES):
        try:
            with translated(store.uri, "compacting"):
                return _compact(store, keep_versions)
        except StoreLockedError:
            if number == COMPACT_TRIES - 1:
                raise
    raise AssertionError  # the last try returned or raised


def _compact(store: LanceReader, keep_versions: timedelta) -> CompactReport:
    newest = store._newest()
    before = size_in_bytes(newest)
    dataset = newest.checkout_version(newest.version)  # what follows moves this object from version to version
    _index(dataset)  # before the files, for Lance merges no indexed rows with others
    dataset.optimize.compact_files()
    dataset.cleanup_old_versions(older_than=keep_versions)
    return CompactReport(before, size_in_bytes(dataset))


def index_new_rows(store: LanceReader) -> None:
    """Bring the indexes up to date if many rows have come since; what was committed stays so if that fails."""
    newest = store._newest()
    indexed = {index.name: index.num_rows_indexed for index in newest.describe_indices()}
    if newest.count_rows() - min(indexed.get(f"{column}_idx", 0) for column in INDEXES) <= NEW_ROWS:
        return
    try:
        with translated(store.uri, "indexing"):
            _index(newest.checkout_version(newest.version))
    except StoreError as error:
        logger.warning("%s: new rows are not indexed, and found more slowly: %s", store.uri, error)


def _index(dataset: Any) -> None:
    """Bring the indexes up to date; rows that they lack would be found as well, but slower."""
    if not dataset.count_rows():
        return
    present = {index.name for index in dataset.describe_indices()}
    for column, kind in INDEXES.items():
        if f"{column}_idx" not in present:
            dataset.create_scalar_index(column, kind, name=f"{column}_idx")
    dataset.optimize.optimize_indices()


def rebuild_words(store: LanceReader, tokenizer: str | None) -> None:
    """See ``Store.rebuild_first_stage``; to be called while other writers of a local store wait.

    Raises:
        ValueError: If there is no such tokenizer.
    """

    def settings_of(identity: Identity) -> Identity:
        if tokenizer is None:
            return identity
        return identity._replace(settings=replace(identity.settings, tokenizer=tokenizer))  # type: ignore[arg-type]

    settings_of(store._identity)  # refuses what is none, before anything is written

    def attempt(newest: Any) -> None:
        identity = settings_of(read_identity(newest, store.uri))
        fragments = write_rows(store.uri, _anew(store, newest, identity), identity, store._options, "overwrite")
        overwrite(store.uri, newest.version, identity, fragments, store._options)

    until_it_follows(store.uri, store._newest, attempt, "rebuilding the first stage")
    newest = store._newest()
    with translated(store.uri, "indexing"):
        _index(newest.checkout_version(newest.version))


def _anew(store: LanceReader, dataset: Any, identity: Identity) -> Any:
    """All rows of a version as a reader of batches, with the words of their texts."""

    def batches() -> Iterator[Any]:
        columns = [*STATE_COLUMNS, *DOCUMENT_COLUMNS[3:]]
        for batch in store._batches(dataset, columns):
            rows = [
                (StateRow._make(v[: len(STATE_COLUMNS)]), DocumentRow._make((*v[:3], *v[len(STATE_COLUMNS) :])))
                for v in as_rows(batch, columns)
            ]
            yield from as_table(rows, identity).to_batches()

    return pa.RecordBatchReader.from_batches(schema(identity), batches())


def copy_lance(store: LanceReader, path: str) -> None:
    """Write a copy of the latest version, which is there whole or not at all.

    Args:
        store: Open.
        path: Of the copy; an object store's is reached as the store itself is.

    Raises:
        FileExistsError: If something lies there.
    """
    options = store._options if "://" in path else None
    try:
        open_dataset(path, options)
    except StoreNotFoundError:
        taken = "://" not in path and Path(path).exists()
    else:
        taken = True
    if taken:
        raise FileExistsError(f"{path}: there is something already")

    def copy(dataset: Any) -> None:
        identity = new_identity(store.fingerprint, read_identity(dataset, store.uri).settings)
        fragments = write_rows(path, _anew(store, dataset, identity), identity, options, "create")
        try:
            overwrite(path, 0, identity, fragments, options)
        except Superseded as error:
            raise FileExistsError(f"{path}: somebody has put something there meanwhile") from error

    store._read(copy)
