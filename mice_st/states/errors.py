"""Exceptions of stores, one for each failure, so that callers can tell a damaged file from a full disk."""

from __future__ import annotations

import errno
from collections.abc import Sequence


class StoreError(Exception):
    """Any failure of a store."""


class StoreMismatchError(StoreError, ValueError):
    """The store was made by something else.

    Attributes:
        field: First field of the fingerprint that differs.
        stored: Its value in the store.
        wanted: Its value in what was asked for.
    """

    def __init__(
        self,
        field: str,
        stored: object,
        wanted: object,
        others: Sequence[str] = (),
        made_by: str = "",
        used_by: str = "",
    ) -> None:
        also = f" (also different: {', '.join(others)})" if others else ""
        what = {"weights_sha256": "model", "tokenizer_sha256": "tokenizer"}.get(field, field)
        if what != field:  # 64 digits tell nobody anything; a name and the first few do
            stored_as, wanted_as = (
                f"by {name or 'a model without a name'} ({str(value)[:8]})"
                for name, value in ((made_by, stored), (used_by, wanted))
            )
        else:
            stored_as, wanted_as = f"with {stored!r}", f"with {wanted!r}"
        super().__init__(f"the store was made with another {what}: made {stored_as}, to be used {wanted_as}{also}")
        self.field = field
        self.stored = stored
        self.wanted = wanted


class StoreVersionError(StoreError, ValueError):
    """Another version of the format wrote the store.

    Attributes:
        stored: The version that the store has.
    """

    def __init__(self, stored: object, wanted: int) -> None:
        what = f"the store has format version {stored!r}, this version of mice-st reads {wanted}"
        older = isinstance(stored, int) and stored < wanted
        super().__init__(f"{what}: " + ("run `mice-st store upgrade STORE`" if older else "install a newer mice-st"))
        self.stored = stored


class StoreMovedError(StoreError):
    """The store was moved to another model, or put anew in place of the one that was opened: open it anew."""


class StoreCorruptError(StoreError):
    """Bytes read from the store are not those that were written."""


class StoreLockedError(StoreError):
    """Another writer holds the store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at this path."""


class StoreReadOnlyError(StoreError, PermissionError):
    """The store was opened for reading, or its folder cannot be written."""


class StoreFullError(StoreError, OSError):
    """The disk is full, or a quota or file-size limit is reached; what was committed before is safe."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)


class UnknownDocumentError(StoreError, KeyError):
    """The store has no documents under these ids.

    Attributes:
        ids: All unknown ids of the call, in its order.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        shown = ", ".join(repr(id_) for id_ in ids[:5]) + (", ..." if len(ids) > 5 else "")
        super().__init__(f"{len(ids)} unknown document id(s): {shown}")
        self.ids = list(ids)

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the representation of its argument
