"""Repairing a store: what is damaged is encoded anew from its text, and what is made from the rows is made anew."""

from __future__ import annotations

import json
from typing import Any

from mice_st.data.collection import Document

from .encoding import encode_corpus
from .reports import RepairReport
from .sqlite_store import SqliteStore
from .sqlite_upgrade import salvage_sqlite
from .store import Store

REPAIR_DOCUMENTS = 128  # in one commit


def repair_store(store: Store, model: Any, show_progress_bar: bool | None = None) -> RepairReport:
    """Make a damaged store sound again.

    A file that is itself damaged is copied, as far as it can be read, to a new one that takes its place. Documents with
    a sound text are then encoded anew; those without are removed and named. Words and vectors are made anew from the
    rows. A repair that was broken off can be run again.

    Args:
        store: Open for writing, with nothing uncommitted.
        model: A ``MiceCrossEncoder``, or its ``MiceTransformer``: the one that made the store.
        show_progress_bar: None shows one where the work takes over two seconds.

    Raises:
        StoreMismatchError: If another model made the store.
        StoreLockedError: If the file has to be copied and somebody has it open.
        StoreCorruptError: If it is damaged beyond that.
    """
    unreadable = salvage_sqlite(store) if isinstance(store, SqliteStore) else None
    encoded: list[str] = []
    lost: list[str] = list(unreadable or [])
    damaged = store.damaged()
    for start in range(0, len(damaged), REPAIR_DOCUMENTS):
        part = damaged[start : start + REPAIR_DOCUMENTS]
        sound = [document for document in part if document.text is not None]
        lost += [document.id for document in part if document.text is None]
        store.discard(part)
        documents = (
            Document(d.id, d.text or "", None if d.metadata is None else json.loads(d.metadata)) for d in sound
        )
        encode_corpus(
            model,
            documents,
            store,
            passages=store.settings.overlap is not None,
            overlap=store.settings.overlap,
            shard_documents=REPAIR_DOCUMENTS,
            show_progress_bar=show_progress_bar,
        )
        store.commit()
        encoded += [document.id for document in sound]
    store.rebuild_first_stage()
    return RepairReport(encoded, lost, unreadable is not None)
