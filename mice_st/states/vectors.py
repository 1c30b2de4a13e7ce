"""Pooled vectors of a store in a file that is only ever added to, mapped by whoever searches it.

A slot holds a document's key, the length of its vector, and the vector as it stands in the document's row. Keys are never
used again, so that a slot is either a document's or dead; which ones are dead stands in the store, in the same commit as
the change. Whoever reads an older commit reads fewer slots of the same file.

The rows are the truth: a file that is missing is made anew from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CHUNK_SLOTS = 4096  # 6 MB of float32 at a width of 384: a chunk stays in cache between conversion and product


class VectorFile:
    """The vectors of one generation.

    Args:
        path: The file.
        width: Values of a vector.
        half: Whether they are float16, else float32.
    """

    def __init__(self, path: Path, width: int, half: bool) -> None:
        self.path = path
        self.width = width
        self.half = half
        self.slot = np.dtype([("key", "<i8"), ("norm", "<f4"), ("vector", "<f2" if half else "<f4", (width,))])

    def write(self, start: int, keys: list[int], vectors: np.ndarray) -> None:
        """Write slots from ``start`` on and force them to the disk; what lay there was never committed.

        Args:
            start: First slot.
            keys: Of the documents, ``(n,)``.
            vectors: ``(n, width)``, float16 or float32.
        """
        slots = np.zeros(len(keys), dtype=self.slot)
        slots["key"], slots["vector"] = keys, vectors
        slots["norm"] = norms(vectors)
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.seek(start * self.slot.itemsize)
            file.write(slots.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def holds(self, slots: int) -> bool:
        """Whether the file is there and long enough."""
        return self.path.exists() and self.path.stat().st_size >= slots * self.slot.itemsize

    def map(self, slots: int) -> np.ndarray | None:
        """The first slots, mapped: pages are read when they are needed, and shared between processes.

        Returns:
            ``(slots,)``, or None where the file is not there or too short: damaged, or replaced by a newer one.
        """
        if not slots:
            return np.empty(0, dtype=self.slot)
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < slots * self.slot.itemsize:
                    return None
                # Copy on write: torch warns about arrays that cannot be written to.
                return np.memmap(file, dtype=self.slot, mode="c", shape=(slots,))
        except FileNotFoundError:
            return None


def norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths of vectors ``(n, width)``, ``(n,)`` float32; that of each does not depend on the others."""
    return np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1)).astype(np.float32)


def unit_vectors(slots: np.ndarray) -> np.ndarray:
    """Vectors of slots, each of length 1 or all zeros: ``(n, width)`` float32."""
    return slots["vector"].astype(np.float32) / np.maximum(slots["norm"], np.finfo(np.float32).tiny)[:, None]


def unit_query(vector: Tensor) -> Tensor:
    """A vector ``(width,)`` with length 1, float32 on the CPU; one of zeros stays so."""
    query = vector.detach().to("cpu", torch.float32)
    return query / query.norm().clamp_min(torch.finfo(torch.float32).tiny)


def cosines(slots: np.ndarray, vector: Tensor) -> np.ndarray:
    """Cosines of all slots with one vector, ``(n,)`` float32; exact products of what is stored, chunk by chunk.

    Args:
        slots: As ``VectorFile.map`` gives them.
        vector: ``(width,)``, any floating dtype and device; a vector of zeros gives zeros.
    """
    query = unit_query(vector)
    scores = np.empty(len(slots), dtype=np.float32)
    for start in range(0, len(slots), CHUNK_SLOTS):
        chunk = slots[start : start + CHUNK_SLOTS]
        products = torch.mv(torch.from_numpy(chunk["vector"]).float(), query).numpy()
        scores[start : start + len(chunk)] = products / np.maximum(chunk["norm"], np.finfo(np.float32).tiny)
    return scores


def best_slots(scores: np.ndarray, admitted: np.ndarray, top_k: int) -> np.ndarray:
    """Positions of the best admitted scores, with all that equal the last of them; in no order.

    Args:
        scores: ``(n,)`` float32.
        admitted: ``(n,)`` bool.
        top_k: Largest number, without the ties.
    """
    places = np.flatnonzero(admitted)
    if len(places) <= top_k:
        return places
    mine = scores[places]
    last = np.partition(mine, -top_k)[-top_k]
    return places[mine >= last]


def in_order(found: Iterable[tuple[str, float]], top_k: int) -> dict[str, float]:
    """Ids with their scores, best first, equal scores by id, ``top_k`` at most."""
    return dict(sorted(found, key=lambda item: (-item[1], item[0]))[:top_k])
