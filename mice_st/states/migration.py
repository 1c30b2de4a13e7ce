"""Moving a store that is in use to another model: the contract between the engines and whoever encodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

from .rows import DocumentRow

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


class Migration(ABC):
    """New states beside the old ones, until ``finish`` puts them in their place in one commit.

    Documents that are added or changed meanwhile become pending, deleted ones are left out. What was put stays after a
    kill: ``begin_migration`` for the same model goes on from there, and for another one begins anew.
    """

    @abstractmethod
    def pending(self, limit: int) -> list[DocumentRow]:
        """Documents that have no new states yet, ``limit`` at most; an empty list if there are none."""

    @abstractmethod
    def put(
        self,
        rows: Sequence[DocumentRow],
        documents: Sequence[DocumentStates],
        hashes: Sequence[str],
        pooled: Tensor | None,
    ) -> None:
        """Keep new states durably; those of a document that has changed or gone meanwhile are dropped.

        Args:
            rows: As ``pending`` gave them.
            documents: Their new states.
            hashes: What the documents are to be compared by from now on.
            pooled: Their new pooled vectors, ``(n_documents, width of the backbone)`` float32 or float16.
        """

    def alone(self) -> AbstractContextManager[None]:
        """While it lasts, others wait before they change the store: for the last documents, and ``finish``.

        Beside steady writers there would always be one more. An engine without locks may let them go on.
        """
        return nullcontext()

    @abstractmethod
    def finish(self) -> bool:
        """Put the new states in place of the old ones, in one commit.

        Returns:
            Whether it was done; False if documents are pending, and then nothing has changed.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Remove the new states."""
