"""Cosines over the pooled vectors of a Lance store, exact: every vector of the version is multiplied.

Vectors are read fragment by fragment, and a fragment that was read stays in memory: what a search reads is what was
committed since the one before. A commit that removes rows does not change a fragment's files, so nothing is read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .errors import StoreCorruptError, StoreError
from .lance_files import as_rows, read_table, translated
from .lance_words import Pending, admits
from .rows import DocumentRow, read_pooled, stack_pooled
from .vectors import CHUNK_SLOTS, best_slots, cosines, in_order
from .where import Where

CACHE_BYTES = 2 * 2**30  # 2.7 million vectors of 384 values, float16


class Block(NamedTuple):
    """Vectors of a fragment: where their rows lie, ``(n,)`` int64 rising, and slots as ``vectors.cosines`` takes them."""

    addresses: np.ndarray
    slots: np.ndarray


class VectorCache:
    """Vectors of fragments, the least used of them dropped; threads may share it.

    Args:
        uri: Of the store, for messages.
        most_bytes: Bytes of vectors kept.
    """

    def __init__(self, uri: str, most_bytes: int = CACHE_BYTES) -> None:
        self._uri = uri
        self._most_bytes = most_bytes
        self._blocks: OrderedDict[tuple, Block] = OrderedDict()
        self._lock = threading.Lock()

    def blocks(self, dataset: Any) -> Iterator[Block]:
        """The vectors of all rows of a version.

        Raises:
            StoreError: If a document has none; names it.
            ValueError: If widths differ within a fragment.
        """
        live = read_table(dataset, self._uri, [], with_row_address=True)["_rowaddr"].to_numpy().astype(np.int64)
        live.sort()
        for fragment in dataset.get_fragments():
            first = fragment.fragment_id << 32
            mine = live[np.searchsorted(live, first) : np.searchsorted(live, first + 2**32)]
            if not len(mine):
                continue
            key = (fragment.fragment_id, *(file.path for file in fragment.metadata.files))
            with self._lock:
                block = self._blocks.get(key)
            places = _places(block, mine) if block is not None else None
            if block is None or places is None:  # not read yet, or by a later version, which had fewer of its rows
                block = self._read(fragment, mine)
                self._keep(key, block)
                places = np.arange(len(mine))
            whole = len(places) == len(block.addresses)
            yield block if whole else Block(mine, block.slots[places])

    def _read(self, fragment: Any, live: np.ndarray) -> Block:
        table = read_table(fragment, self._uri, ["id", "pooled"], with_row_address=True)
        if table["pooled"].null_count:
            without = next(id_ for id_, pooled in as_rows(table, ["id", "pooled"]) if pooled is None)
            raise StoreError(f"{self._uri}: document {without!r} was put without a pooled vector")
        addresses = table["_rowaddr"].to_numpy().astype(np.int64)
        assert np.array_equal(addresses, live)  # a scan keeps the order of rows
        return Block(addresses, slots_of(table["id"].to_pylist(), table["pooled"].to_pylist()))

    def _keep(self, key: tuple, block: Block) -> None:
        with self._lock:
            self._blocks[key] = block
            self._blocks.move_to_end(key)
            while self._blocks and sum(kept.slots.nbytes for kept in self._blocks.values()) > self._most_bytes:
                self._blocks.popitem(last=False)

    def forget(self) -> None:
        """Let go of all vectors."""
        with self._lock:
            self._blocks.clear()


def _places(block: Block, wanted: np.ndarray) -> np.ndarray | None:
    """Where addresses stand in a block; None if one does not."""
    places = np.searchsorted(block.addresses, wanted)
    found = places < len(block.addresses)
    if not found.all() or not np.array_equal(block.addresses[places], wanted):
        return None
    return places


def slots_of(ids: Sequence[str], pooled: Sequence[bytes]) -> np.ndarray:
    """Vectors with their lengths, ``(n,)``, float16 if all are, else float32.

    Raises:
        ValueError: If widths differ; names the first document that differs.
    """
    parts = {len(blob): read_pooled(blob) for blob in pooled}
    if len(parts) == 1 and len({blob[:1] for blob in pooled}) == 1:  # as nearly always: without an array for each
        ((size, vector),) = parts.items()
        matrix = np.frombuffer(b"".join(pooled), dtype=np.uint8).reshape(len(pooled), size)[:, 1:]
        vectors = np.ascontiguousarray(matrix).view(vector.dtype)
    else:
        rows = [read_pooled(blob) for blob in pooled]
        vectors = stack_pooled(ids, rows).numpy()
    dtype = "<f2" if vectors.dtype == np.float16 else "<f4"
    slots = np.zeros(len(vectors), dtype=[("norm", "<f4"), ("vector", dtype, (vectors.shape[1],))])
    slots["vector"] = vectors
    for start in range(0, len(slots), CHUNK_SLOTS):
        chunk = slots[start : start + CHUNK_SLOTS]
        chunk["norm"] = np.linalg.norm(chunk["vector"].astype(np.float32), axis=1)
    return slots


def search(
    dataset: Any, uri: str, cache: VectorCache, vector: Tensor, top_k: int, where: Where | None, pending: Pending
) -> dict[str, float]:
    """As ``Store.search_vectors``, in one version.

    Args:
        dataset: The version.
        uri: Of the store, for messages.
        cache: Of the store.
        vector: ``(width,)``.
        top_k: Largest number of documents.
        where: Condition on metadata.
        pending: What the searching writer has not committed.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    admitted = _admitted(dataset, uri, where, pending)
    places, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for block in cache.blocks(dataset):
        _check_width(block.slots, vector)
        mine = cosines(block.slots, vector)
        allowed = np.ones(len(mine), dtype=bool) if admitted is None else np.isin(block.addresses, admitted)
        best = best_slots(mine, allowed, top_k)
        places.append(block.addresses[best])
        scores.append(mine[best])
    address, score = np.concatenate(places), np.concatenate(scores)
    best = best_slots(score, np.ones(len(score), dtype=bool), top_k)
    names = _ids_at(dataset, uri, address[best])
    found = [(names[int(address[place])], float(score[place])) for place in best]
    return in_order(found + _pending_scores(uri, vector, where, pending.documents), top_k)


def _check_width(slots: np.ndarray, vector: Tensor) -> None:
    width = slots["vector"].shape[1]
    if tuple(vector.shape) != (width,):
        raise ValueError(
            f"the query's vector has shape {tuple(vector.shape)} for a store whose vectors have {width} values"
        )


def _admitted(dataset: Any, uri: str, where: Where | None, pending: Pending) -> np.ndarray | None:
    """Where the rows lie that may be found; None for all."""
    if where is None and not pending.hidden:
        return None
    table = read_table(dataset, uri, ["id", "metadata"], with_row_address=True)
    keep = admits(where, table["metadata"].to_pylist())
    keep &= np.array([id_ not in pending.hidden for id_ in table["id"].to_pylist()], dtype=bool)
    return table["_rowaddr"].to_numpy().astype(np.int64)[keep]


def _ids_at(dataset: Any, uri: str, addresses: np.ndarray) -> dict[int, str]:
    """Ids of rows by where they lie."""
    if not len(addresses):
        return {}
    wanted = np.unique(addresses).tolist()
    with translated(uri, "reading"):
        ids = dataset._take_rows(wanted, columns=["id"])["id"].to_pylist()
    if len(ids) != len(wanted):
        raise StoreCorruptError(f"{uri}: {len(wanted) - len(ids)} rows that were found cannot be read")
    return dict(zip(wanted, ids, strict=True))


def _pending_scores(
    uri: str, vector: Tensor, where: Where | None, documents: Sequence[DocumentRow]
) -> list[tuple[str, float]]:
    for row in documents:
        if row.pooled is None:
            raise StoreError(f"{uri}: document {row.id!r} was put without a pooled vector")
    keep = admits(where, [row.metadata for row in documents])
    mine = [row for row, kept in zip(documents, keep.tolist(), strict=True) if kept]
    if not mine:
        return []
    slots = slots_of([row.id for row in mine], [row.pooled or b"" for row in mine])
    _check_width(slots, vector)
    return list(zip([row.id for row in mine], cosines(slots, vector).tolist(), strict=True))
