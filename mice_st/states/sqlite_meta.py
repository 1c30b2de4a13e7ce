"""What a SQLite store says of itself: version, fingerprint, settings and counters."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import StoreCorruptError, StoreVersionError
from .identity import FORMAT_VERSION, Fingerprint, StoreSettings

APPLICATION_ID = 0x4D494345  # "MICE"


def meta_crc(fingerprint: str, settings: str) -> int:
    """CRC-32 over the two lines that say what a store is."""
    return zlib.crc32(f"{fingerprint}\n{settings}".encode("utf-8", "surrogateescape"))


def read_version(connection: sqlite3.Connection, path: Path) -> int:
    """Version of the format of an open store.

    Raises:
        StoreCorruptError: If this is no store.
    """
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise StoreCorruptError(f"{path} is damaged or no store of document states (application id)")
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def read_meta(connection: sqlite3.Connection, path: Path) -> tuple[Fingerprint, StoreSettings, int]:
    """Fingerprint, settings and their CRC-32 of an open store.

    Raises:
        StoreCorruptError: If they are damaged or this is no store.
        StoreVersionError: If another version of the format wrote it.
    """
    version = read_version(connection, path)
    if version != FORMAT_VERSION:
        raise StoreVersionError(version, FORMAT_VERSION)
    rows = connection.execute("SELECT fingerprint, settings, crc FROM meta").fetchall()
    if (
        len(rows) != 1
        or not all(isinstance(value, str) for value in rows[0][:2])
        or meta_crc(*rows[0][:2]) != rows[0][2]
    ):
        raise StoreCorruptError(f"{path}: the fingerprint is damaged (CRC-32 does not match)")
    return Fingerprint.from_json(rows[0][0]), StoreSettings.from_json(rows[0][1]), rows[0][2]


class Counters(NamedTuple):
    """The counters of an open store.

    Attributes:
        commits: Changes so far: whoever keeps something in memory compares it.
        next_key: Of the next document.
        slots: In the file of vectors.
    """

    commits: int
    next_key: int
    slots: int


def read_counters(connection: sqlite3.Connection) -> Counters:
    """The counters of an open store.

    Raises:
        StoreCorruptError: If they are damaged.
    """
    row = connection.execute("SELECT commits, next_key, slots FROM counters").fetchone()
    if row is None or not all(isinstance(value, int) and value >= 0 for value in row):
        raise StoreCorruptError(f"the store's counters are damaged: {row}")
    return Counters(*row)


def read_keys(connection: sqlite3.Connection, select: str, parameters: Sequence[Any] = ()) -> np.ndarray:
    """The keys that a query gives, ``(n,)`` int64.

    Raises:
        StoreCorruptError: If one is no integer.
    """
    keys = [key for (key,) in connection.execute(select, parameters)]
    if not all(isinstance(key, int) for key in keys):
        raise StoreCorruptError(f"a key in the store is damaged ({select})")
    return np.array(keys, dtype=np.int64)


def write_meta(connection: sqlite3.Connection, fingerprint: Fingerprint, settings: StoreSettings) -> None:
    """Say what a store is."""
    lines = fingerprint.to_json(), settings.to_json()
    connection.execute("INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?)", (*lines, meta_crc(*lines)))
