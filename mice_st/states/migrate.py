"""Encoding a store's documents by another model, while the store goes on answering from what it has."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from mice_st.data.collection import Document

from .encoding import SHARD_DOCUMENTS, cut_into_shards, document_hash
from .fingerprint import fingerprint_of, module_of
from .migration import Migration
from .passages import check_overlap
from .rows import DocumentRow
from .shards import encode_shard
from .store import Store


def migrate_store(
    store: Store, model: Any, name: str, *, codec: str | None = None, show_progress_bar: bool | None = None
) -> int:
    """Move a store to another model. Ids, texts and metadata stay as they are.

    Others may read, add, change and delete meanwhile; they have to open the store anew, with the new model, once it is
    done. A migration that was broken off goes on where it was.

    Args:
        store: Open for writing, with nothing uncommitted; afterwards it is the new model's.
        model: A ``MiceCrossEncoder``, or its ``MiceTransformer``.
        name: What the store is to call it.
        codec: Another codec; None keeps the store's.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        How many documents were encoded by this call; 0 if the store is this model's already.

    Raises:
        StoreError: If a document was put without its text; names it.
    """
    module = module_of(model)
    made_by = store.fingerprint
    wanted = fingerprint_of(module, codec or made_by.codec, made_by.prompt)
    if wanted == made_by:
        return 0
    overlap = store.settings.overlap
    if overlap is not None:
        try:
            check_overlap(module, overlap)
        except ValueError:  # the new model's passages are shorter than that
            overlap = check_overlap(module, None)
    migration = store.begin_migration(wanted, replace(store.settings, model=name, overlap=overlap))
    encoded = 0
    with (
        ExitStack() as stack,
        tqdm(
            total=len(store),
            desc="Documents",
            unit="document",
            disable=show_progress_bar is False,
            delay=0 if show_progress_bar else 2,
        ) as progress,
    ):
        is_alone = False
        while True:
            rows = migration.pending(SHARD_DOCUMENTS)
            if len(rows) < SHARD_DOCUMENTS and not is_alone:  # the last ones: there would always be one more
                stack.enter_context(migration.alone())
                is_alone = True
                continue
            if rows:
                _encode(module, migration, wanted.prompt, overlap, rows)
                encoded += len(rows)
                progress.update(len(rows))
            elif migration.finish():
                return encoded


def _encode(module: Any, migration: Migration, prompt: str, overlap: int | None, rows: list[DocumentRow]) -> None:
    """Encode documents and keep their new states, some at a time."""
    by_id = {row.id: row for row in rows}
    for shard in cut_into_shards((Document(row.id, row.text or "") for row in rows), SHARD_DOCUMENTS):
        names = [f"document {document.id!r}" for document in shard]
        result = encode_shard(module, [prompt + document.text for document in shard], names, overlap)
        migration.put(
            [by_id[document.id] for document in shard],
            result.documents(),
            [document_hash(document.text, overlap) for document in shard],
            None if result.pooled is None else torch.from_numpy(result.pooled),
        )
