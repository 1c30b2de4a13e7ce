"""The engine that a path names: one SQLite file, or Lance for folders ending in ``.lance`` and for object stores."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from .errors import StoreError, StoreNotFoundError
from .identity import Fingerprint, StoreSettings
from .sqlite_store import SqliteStore, check_path
from .sqlite_upgrade import restore_sqlite, upgrade_sqlite
from .store import Store


def open_store(
    path: str | PathLike[str],
    fingerprint: Fingerprint | None,
    *,
    read_only: bool,
    settings: StoreSettings | None = None,
    storage_options: dict[str, str] | None = None,
) -> Store:
    """Open a store, or create it where there is none and it is opened for writing.

    Args:
        path: A folder ending in ``.lance``, or an ``s3://`` or ``gs://`` address, is a ``LanceStore``; anything else a
            ``SqliteStore``.
        fingerprint: What the states must have been made by; None accepts whatever the store holds (and cannot create
            one).
        read_only: Whether only to read. Writers take turns, and never shut readers out.
        settings: What a new store keeps beside its fingerprint; the model's name is also what an error calls the model.
        storage_options: Credentials and endpoints for Lance's object stores.

    Raises:
        StoreMismatchError: If the store was made by something else.
        StoreNotFoundError: If there is none, and it is opened for reading or without a fingerprint.
        ValueError: If ``storage_options`` are given for SQLite.
    """
    name = fspath(path)
    if name.startswith(("s3://", "gs://")) or name.rstrip("/").endswith(".lance"):
        from .lance_store import LanceStore  # late: needs an extra

        return LanceStore(name, fingerprint, read_only=read_only, settings=settings, storage_options=storage_options)
    if storage_options:
        raise ValueError(f"{name} is a SQLite store, which takes no storage_options")
    return SqliteStore(name, fingerprint, read_only=read_only, settings=settings)


def store_exists(path: str | PathLike[str]) -> bool:
    """Whether there is a store, of any version and model, or a damaged one."""
    try:
        open_store(path, None, read_only=True).close()
    except StoreNotFoundError:
        return False
    except StoreError:
        return True
    return True


def restore_store(path: str | PathLike[str], copy: str | PathLike[str]) -> int:
    """Put a copy, as ``Store.backup`` makes it, in the place of a SQLite store; the copy stays where it is.

    To copy files by hand over a store that was not closed would let its ``-wal`` undo what was copied.

    Args:
        path: The store; what it holds is gone afterwards. Nobody may have it open.
        copy: The copy.

    Returns:
        How many documents it has.

    Raises:
        StoreNotFoundError: If there is no copy.
        StoreLockedError: If somebody has the store open. Nothing has changed then.
        ValueError: If one of them is no SQLite store.
    """
    return restore_sqlite(check_path(path), check_path(copy))


def upgrade_store(path: str | PathLike[str]) -> int:
    """Turn a store of an older version of the format into one of this version; nothing is encoded anew.

    Args:
        path: As for ``open_store``. Nobody may have it open.

    Returns:
        How many documents it has; a store of this version is left alone.

    Raises:
        StoreNotFoundError: If there is none.
        StoreCorruptError: If a row is damaged; names the document. Nothing has changed then.
        StoreLockedError: If somebody has it open; what was copied stays for the next time.
    """
    name = fspath(path)
    if name.startswith(("s3://", "gs://")) or name.rstrip("/").endswith(".lance"):
        from .lance_upgrade import upgrade_lance  # late: needs an extra

        return upgrade_lance(name)
    if not Path(name).exists():
        raise StoreNotFoundError(f"{name}: there is no store here")
    return upgrade_sqlite(Path(name))
