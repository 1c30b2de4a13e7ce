"""The reports that a store's operations return."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class CompactReport:
    """Bytes that the store occupied before and after ``compact``."""

    bytes_before: int
    bytes_after: int
