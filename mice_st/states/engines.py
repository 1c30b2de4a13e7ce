"""The engine that a path names: one SQLite file, or Lance for folders ending in ``.lance`` and for object stores."""

from __future__ import annotations

from os import PathLike, fspath

from .identity import Fingerprint
from .sqlite_store import SqliteStore
from .store import Store


def open_store(
    path: str | PathLike[str],
    fingerprint: Fingerprint | None,
    *,
    read_only: bool,
    storage_options: dict[str, str] | None = None,
) -> Store:
    """Open a store, or create it where there is none and it is opened for writing.

    Args:
        path: A folder ending in ``.lance``, or an ``s3://`` or ``gs://`` address, is a ``LanceStore``; anything else a
            ``SqliteStore``.
        fingerprint: What the states must have been made by; None accepts whatever the store holds (and cannot create
            one).
        read_only: Whether only to read. A writer shuts out other writers, never readers.
        storage_options: Credentials and endpoints for Lance's object stores.

    Raises:
        StoreMismatchError: If the store was made by something else.
        StoreNotFoundError: If there is none, and it is opened for reading or without a fingerprint.
        ValueError: If ``storage_options`` are given for SQLite.
    """
    name = fspath(path)
    if name.startswith(("s3://", "gs://")) or name.rstrip("/").endswith(".lance"):
        from .lance_store import LanceStore  # late: needs an extra

        return LanceStore(name, fingerprint, read_only=read_only, storage_options=storage_options)
    if storage_options:
        raise ValueError(f"{name} is a SQLite store, which takes no storage_options")
    return SqliteStore(name, fingerprint, read_only=read_only)
