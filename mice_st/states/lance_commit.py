"""Commits to a Lance dataset that either follow the version they were made for, or are made anew.

Lance alone promises less: creating a dataset twice at once can drop committed rows, and two upserts of one new id leave
two rows. What is used here instead is its own refusal: an overwrite without retries is refused if there is any newer
version, and an update is refused if another one has touched the same fragment. So a store is created, and filled while it
is empty, by an overwrite without retries, and every other commit also names the lowest fragment as touched. Of two commits
for one version the second is refused, on a disk and on an object store that puts a file only where there is none.

On a local disk a lock file beside the folder lets writers take turns. It saves them from making commits anew; nothing
depends on it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from .errors import StoreLockedError, StoreNotFoundError, StoreReadOnlyError
from .lance_extra import lance
from .lance_files import Identity, addresses_of, open_dataset, schema, translated

COMMIT_TRIES = 1000
LONGEST_PAUSE = 0.5  # seconds
LOCK_SECONDS = 600.0  # longer than it takes to compact a large store


class Superseded(Exception):
    """Another writer was faster; what is to be written has to be made for its version."""


def create_dataset(uri: str, identity: Identity, storage_options: dict[str, str] | None) -> Any:
    """Create an empty dataset, or open the one that another writer has just created."""
    try:
        return overwrite(uri, 0, identity, [], storage_options)
    except Superseded:
        return open_dataset(uri, storage_options)


def overwrite(
    uri: str, version: int, identity: Identity, fragments: Sequence[Any], storage_options: dict[str, str] | None
) -> Any:
    """Make these fragments all that a dataset holds, if nothing was committed since a version; returns the new one.

    Args:
        uri: Of the dataset.
        version: The latest that its writer has seen; 0 if there was no dataset.
        identity: For the schema.
        fragments: As ``write_rows`` gives them.
        storage_options: Credentials and endpoints.

    Raises:
        Superseded: If something was; nothing has changed.
    """
    operation = lance.LanceOperation.Overwrite(schema(identity), list(fragments))
    return _commit(uri, version, operation, storage_options)


def _commit(uri: str, version: int, operation: Any, storage_options: dict[str, str] | None) -> Any:
    try:
        return lance.LanceDataset.commit(
            uri, operation, read_version=version, max_retries=0, storage_options=storage_options
        )
    except Exception as error:
        low = str(error).lower()
        # Without a version to follow, Lance looks for version 0 where it finds a dataset.
        created = version == 0 and ("already exists" in low or "/0.manifest" in low or "18446744073709551615" in low)
        if created or "commit conflict" in low or "incompatible transaction" in low:
            raise Superseded from error
        raise


def write_rows(
    uri: str, rows: Any, identity: Identity, storage_options: dict[str, str] | None, mode: str = "append"
) -> list[Any]:
    """Write the files of new rows, which no version has yet.

    Args:
        uri: Of the dataset.
        rows: A table, or a reader of batches.
        identity: For the schema.
        storage_options: Credentials and endpoints.
        mode: ``append`` for rows beside those that are there, ``overwrite`` for rows in place of them.
    """
    return lance.fragment.write_fragments(
        rows, uri, schema=schema(identity), mode=mode, storage_options=storage_options
    )


def replace_rows(
    dataset: Any,
    ids: Sequence[str],
    fragments: Sequence[Any],
    identity: Identity,
    storage_options: dict[str, str] | None,
) -> Any:
    """Remove all rows of some ids and add new rows, in one version that follows that of ``dataset``.

    Args:
        dataset: The version to follow.
        ids: Whose rows are removed, if there are any.
        fragments: As ``write_rows`` gives them.
        identity: For the schema.
        storage_options: Credentials and endpoints.

    Returns:
        The new version, or ``dataset`` if there is nothing to do.

    Raises:
        Superseded: If another writer has committed since; nothing has changed.
    """
    uri = dataset.uri
    present = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
    if not present:
        return overwrite(uri, dataset.version, identity, fragments, storage_options) if fragments else dataset
    by_fragment: dict[int, list[int]] = {}
    for addresses in addresses_of(dataset, uri, sorted(set(ids))).values():
        for address in addresses:
            by_fragment.setdefault(address >> 32, []).append(address & 0xFFFFFFFF)
    return _update(dataset, present, by_fragment, fragments, storage_options)


def _update(
    dataset: Any,
    present: dict[int, Any],
    removed_rows: dict[int, list[int]],
    fragments: Sequence[Any],
    storage_options: dict[str, str] | None,
) -> Any:
    if not removed_rows and not fragments:
        return dataset
    updated, removed = [], []
    for id_, offsets in sorted(removed_rows.items()):
        remaining = present[id_].delete_rows(offsets)
        if remaining is None:
            removed.append(id_)
        else:
            updated.append(remaining)
    lowest = min(present)
    if lowest not in removed_rows:  # what makes two commits for one version collide
        updated.append(present[lowest].metadata)
    operation = lance.LanceOperation.Update(
        removed_fragment_ids=removed, updated_fragments=updated, new_fragments=list(fragments)
    )
    return _commit(dataset.uri, dataset.version, operation, storage_options)


@contextmanager
def taking_turns(uri: str, seconds: float) -> Iterator[None]:
    """Wait until no other writer of a local store commits or compacts; does nothing for object stores.

    Args:
        uri: Of the store.
        seconds: Longest time to wait.

    Raises:
        StoreLockedError: If the others take longer.
        StoreReadOnlyError: If the folder cannot be written.
    """
    if "://" in uri:
        yield
        return
    lock = FileLock(f"{uri.rstrip('/')}.lock", timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreLockedError(f"{uri}: another writer has been at work for {seconds:g} seconds") from error
    except OSError as error:
        raise StoreReadOnlyError(f"{uri}: cannot be opened for writing: {error}") from error
    try:
        yield
    finally:
        lock.release()


def until_it_follows(uri: str, newest: Callable[[], Any], attempt: Callable[[Any], Any], doing: str) -> Any:
    """Carry out a commit, anew for each version that other writers put in between.

    Args:
        uri: Of the store, for messages.
        newest: Gives the latest version.
        attempt: Commits on top of the version it is given; raises ``Superseded`` if there is a newer one.
        doing: What it is, for messages.

    Raises:
        StoreLockedError: If other writers were faster each time.
    """
    for number in range(COMMIT_TRIES):
        with translated(uri, doing):
            try:
                return attempt(newest())
            except Superseded:
                pass
            except StoreNotFoundError:  # files of a version that was cleaned up meanwhile
                if number == COMMIT_TRIES - 1:
                    raise
        time.sleep(random.random() * min(LONGEST_PAUSE, 0.002 * (number + 1)))
    raise StoreLockedError(f"{uri}: {doing} failed: other writers were faster {COMMIT_TRIES} times")
