"""The reports that a store's operations return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class PutReport:
    """Ids of one ``put`` in its order: ``added`` are new, ``changed`` replaced, ``unchanged`` left alone."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerifyReport:
    """The result of reading and checking a whole store.

    Attributes:
        documents: Documents read without a fault.
        tokens: Their tokens.
        state_bytes: Bytes of their states and scales.
        problems: One line per fault; empty for a sound store.
    """

    documents: int
    tokens: int
    state_bytes: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class DamagedDocument(NamedTuple):
    """A document whose rows are not as they were written.

    Attributes:
        id: Its id, as far as that can be read.
        key: The engine's own.
        text: Its text, or None where that is damaged too, or was never kept.
        metadata: Its metadata as JSON, likewise.
    """

    id: str
    key: int | None
    text: str | None
    metadata: str | None


@dataclass(frozen=True)
class RepairReport:
    """What ``repair`` did.

    Attributes:
        encoded: Ids of documents that were encoded anew from their texts.
        lost: Ids of documents whose text was damaged or not kept; they are gone.
        copied: Whether the file itself was damaged, and what could be read of it was copied to a new one.
    """

    encoded: list[str]
    lost: list[str]
    copied: bool


@dataclass(frozen=True)
class CompactReport:
    """Bytes that the store occupied before and after ``compact``."""

    bytes_before: int
    bytes_after: int
