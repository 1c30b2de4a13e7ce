"""Which version of a Lance dataset a call reads: the latest one, or within ``reading()`` one for all calls of a thread.

Every commit makes a new version. A version whose files were removed meanwhile, which ``compact`` does with old ones, is
read again as the latest one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from .errors import StoreMovedError, StoreNotFoundError
from .lance_files import Identity, open_dataset, read_identity, translated
from .rows import DocumentRow, StateRow
from .store import Store

T = TypeVar("T")

READ_TRIES = 5  # of calls that meet files which are removed meanwhile


class Uncommitted(NamedTuple):
    """What a writer has put, deleted and set and not committed; never changed, only replaced, so that a thread may keep it."""

    puts: Mapping[str, tuple[StateRow, DocumentRow]]
    deletes: frozenset[str]
    metadata: Mapping[str, str | None]  # of documents that are on disk

    @property
    def hidden(self) -> set[str]:
        """Ids whose rows on disk do not count."""
        return {*self.puts, *self.deletes}


NOTHING = Uncommitted({}, frozenset(), {})


class Pinned(threading.local):
    """What a thread reads, and how many ``reading()`` it is in."""

    dataset: Any = None
    uncommitted: Uncommitted = NOTHING
    depth: int = 0


class LanceVersions(Store):
    """The part of ``LanceStore`` that knows versions.

    Args:
        uri: A folder, or an ``s3://`` or ``gs://`` address.
        read_only: Whether only to read.
        storage_options: Credentials and endpoints, as Lance names them.
    """

    _identity: Identity

    def __init__(self, uri: str, *, read_only: bool, storage_options: dict[str, str] | None) -> None:
        super().__init__(uri, read_only=read_only)
        self.uri = uri
        self._options = storage_options
        self._dataset: Any = None  # the newest version that was seen; never changed, only replaced
        self._opening = threading.Lock()
        self._pinned = Pinned()
        self._uncommitted = NOTHING

    def _newest(self, anew: bool = False) -> Any:
        """The latest version, as an object that no other call moves.

        Args:
            anew: Whether to open the store again, with nothing of what is known of it.

        Raises:
            StoreMovedError: If the store has another model, or is another one, than when it was opened.
        """
        self._check_open()
        with self._opening, translated(self.uri, "refreshing"):
            latest = self._dataset.latest_version
            if latest == self._dataset.version and not anew:
                return self._dataset
            # A lower number is that of a store that was put in place of this one.
            found = None
            if not anew and latest > self._dataset.version:
                with suppress(StoreNotFoundError), translated(self.uri, "refreshing"):  # removed a moment ago
                    found = self._dataset.checkout_version(latest)
            if found is None:
                found = open_dataset(self.uri, self._options)
            self._check_identity(read_identity(found, self.uri))
            self._dataset = found
            return found

    def _check_identity(self, found: Identity) -> None:
        if found.name != self._identity.name:
            raise StoreMovedError(
                f"{self.uri}: another store was put in place of the one that was opened; open it anew"
            )
        if found.fingerprint != self._identity.fingerprint:
            model = found.settings.model or "a model without a name"
            raise StoreMovedError(f"{self.uri}: the store was moved to another model, {model}; open it anew")
        self._settings = found.settings
        self._identity = found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While it lasts, this thread reads one version, and what this object's writers had not committed when it began.

        What this thread itself puts and deletes meanwhile counts too.
        If the files of that version are removed meanwhile, which takes a ``compact`` with a short ``keep_versions``, the
        latest one is read from then on.
        """
        pinned = self._pinned
        if not pinned.depth:
            pinned.uncommitted = self._uncommitted  # first: what is committed in between would else be in neither
            pinned.dataset = self._newest()
        pinned.depth += 1
        try:
            yield
        finally:
            pinned.depth -= 1
            if not pinned.depth:
                pinned.dataset, pinned.uncommitted = None, NOTHING

    def _change(self, change: Callable[[Uncommitted], Uncommitted]) -> None:
        """Change what is not committed, for this thread's ``reading()`` as well."""
        self._uncommitted = change(self._uncommitted)
        if self._pinned.depth:
            self._pinned.uncommitted = change(self._pinned.uncommitted)

    def refresh(self) -> None:
        """Does nothing that a call would not do by itself: every call sees the latest commit."""
        self._newest()

    def _read(self, task: Callable[[Any], T]) -> T:
        """Carry out one read on this thread's version; on the latest one, if files of the other are gone."""
        with self.reading():
            for _ in range(READ_TRIES - 1):
                try:
                    return task(self._pinned.dataset)
                except StoreNotFoundError:
                    self._pinned.dataset = self._newest(anew=True)
            return task(self._pinned.dataset)
