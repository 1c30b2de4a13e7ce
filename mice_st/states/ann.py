"""An approximate index of a store's vectors: inverted lists by faiss, in a file beside the file of vectors.

Vectors that lie near each other stand in one list, and a search looks at the lists nearest to the query, so that it reads a
small part of what the exact pass reads. The lists hold unit vectors in float16 under the number of their slot. They only say
which slots are worth a look: scores are computed from the file of vectors, as in the exact pass.

A list does not know which of its slots are dead or filtered out. So lists are looked at until they hold enough slots that are
neither: after a thousand deletes near the query, or with a filter that admits few, a fixed number of lists would give a full
answer of the wrong documents.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import StoreCorruptError
from .vectors import unit_vectors

LISTS = 2.0  # times the root of the number of vectors; more lists take longer to train
SAMPLE = 64  # vectors of the training sample for each list
ADD_SLOTS = 65536  # 100 MB of float32 at a width of 384
# Measured by scripts/measure_ann.py: what keeps recall@100 above .99 on clustered vectors in all of its cases.
LEAST_LISTS = 16  # to look at, and as many behind them
DEPTH = 10  # admitted slots in the former for each one that is asked for
NEWS = 0.02  # share of the answer that the latter may have; with more, twice as many lists are looked at
MOST_LISTS = 0.5  # share of the lists from which on the exact pass is no slower
ROUNDING = 2e-4  # by which the cosine of a vector in float16 may be off


def faiss_package() -> Any:
    """The package of the extra ``ann``.

    Raises:
        ImportError: If it is not installed; names the extra.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("an approximate index needs the extra `ann`: pip install 'mice-st[ann]'") from error
    return faiss


def build_ann(slots: np.ndarray, path: Path) -> tuple[int, int]:
    """Make an index over slots, and force it to the disk before it bears its name.

    Args:
        slots: As ``VectorFile.map`` gives them, ``(n,)``, at least one.
        path: Of the file, which nobody reads yet.

    Returns:
        Number of lists, and the CRC-32 of the file.

    Raises:
        ImportError: If the extra ``ann`` is not installed.
        StoreCorruptError: If a vector has a value that is no number.
        OSError: If the file cannot be written.
    """
    faiss = faiss_package()
    if not np.isfinite(slots["norm"]).all():
        place = int(np.flatnonzero(~np.isfinite(slots["norm"]))[0])
        raise StoreCorruptError(f"the vector in slot {place} has a value that is no number")
    n, width = len(slots), slots["vector"].shape[1]
    n_lists = max(1, min(round(LISTS * math.sqrt(n)), n // 39))  # 39: faiss warns about fewer vectors for each list
    centres = faiss.IndexFlatIP(width)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(centres, width, n_lists, half, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.min_points_per_centroid = 1  # else it warns about stores of a few documents
    sample = np.sort(np.random.default_rng(0).permutation(n)[: max(SAMPLE * n_lists, 39)])
    with _threads(faiss):
        index.train(unit_vectors(slots[sample]))
        for start in range(0, n, ADD_SLOTS):
            index.add(unit_vectors(slots[start : start + ADD_SLOTS]))  # under the numbers of their slots
    temporary = Path(f"{path}.new")
    try:
        faiss.write_index(index, str(temporary))
    except RuntimeError as error:  # faiss has no other exception
        temporary.unlink(missing_ok=True)
        raise OSError(f"faiss cannot write it: {error}") from error
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    crc = file_crc(temporary)
    os.replace(temporary, path)
    return n_lists, crc


def file_crc(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            crc = zlib.crc32(part, crc)
    return crc


class AnnIndex:
    """An index that is mapped for searching; threads may share it.

    Args:
        path: The file.
        slots: How many slots it covers: 0 to ``slots - 1``.
        crc: CRC-32 of the file; faiss reads it only if this fits, since it trusts the lengths in it.

    Raises:
        ImportError: If the extra ``ann`` is not installed.
        OSError: If the file is missing.
        ValueError: If it is damaged, or does not hold each slot once.
    """

    def __init__(self, path: Path, slots: int, crc: int) -> None:
        self._faiss = faiss_package()
        if file_crc(path) != crc:
            raise ValueError("CRC-32 does not match")
        try:
            self._index = self._faiss.read_index(str(path), self._faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"faiss cannot read it: {error}") from error
        self.slots = slots
        self.list_of = np.full(slots, -1, dtype=np.int32)
        held = 0
        for number in range(self._index.nlist):
            places = self.places(number)
            held += len(places)
            if len(places) and not 0 <= places.min() <= places.max() < slots:
                raise ValueError(f"list {number} has slots beyond {slots}")
            self.list_of[places] = number
        if held != slots or (self.list_of < 0).any():
            raise ValueError(f"it does not hold each of {slots} slots once")

    @property
    def n_lists(self) -> int:
        """Number of lists."""
        return int(self._index.nlist)

    def places(self, number: int) -> np.ndarray:
        """Slots of a list, ``(n,)`` int64."""
        lists = self._index.invlists
        size = lists.list_size(number)
        return self._faiss.rev_swig_ptr(lists.get_ids(number), size) if size else np.empty(0, dtype=np.int64)

    def unit_vectors(self, number: int) -> np.ndarray:
        """Vectors of a list in the order of ``places``, ``(n, width)`` float16."""
        lists, width = self._index.invlists, self._index.d
        size = lists.list_size(number)
        if not size:
            return np.empty((0, width), dtype=np.float16)
        codes = self._faiss.rev_swig_ptr(lists.get_codes(number), size * self._index.code_size)
        return codes.view(np.float16).reshape(size, width)

    def view(self, admitted: np.ndarray) -> AnnView:
        """The index as those see it who want only some slots.

        Args:
            admitted: Whether each slot is wanted, ``(slots,)`` bool.
        """
        return AnnView(self, admitted)


class AnnView:
    """An index with the slots that are wanted of it.

    Args:
        index: The index.
        admitted: Whether each slot is wanted, ``(slots,)`` bool.
    """

    def __init__(self, index: AnnIndex, admitted: np.ndarray) -> None:
        self._of = index
        self._admitted = admitted
        self._counts = np.bincount(index.list_of[admitted], minlength=index.n_lists)
        faiss = index._faiss
        self._selector = None if admitted.all() else faiss.IDSelectorBitmap(np.packbits(admitted, bitorder="little"))

    def candidates(self, vector: np.ndarray, top_k: int) -> np.ndarray | None:
        """Slots that are worth a look.

        Args:
            vector: Of the query, ``(width,)`` float32, of length 1.
            top_k: How many documents are wanted.

        Returns:
            At least ``top_k`` admitted slots, int64, in no order, or all that there are; None where so many lists would
            have to be looked at that the exact pass is no slower.
        """
        if not vector.any() or not np.isfinite(vector).all():
            return None  # no list is nearest
        faiss, n_lists = self._of._faiss, self._of.n_lists
        wanted = top_k * DEPTH
        total = int(self._counts.sum())
        if total <= max(wanted, LEAST_LISTS * self._of.slots // n_lists):
            return np.flatnonzero(self._admitted)  # no more than would be looked at anyway
        with _threads(faiss):
            nearest = self._of._index.quantizer.search(vector[None], n_lists)[1][0]
            rank = np.empty(n_lists, dtype=np.int64)
            rank[nearest] = np.arange(n_lists)
            first = max(LEAST_LISTS, int(np.searchsorted(np.cumsum(self._counts[nearest]), wanted)) + 1)
            while 2 * first <= n_lists * MOST_LISTS:
                found = self._best(vector, 2 * first, top_k)
                if (rank[self._of.list_of[found[:top_k]]] >= first).sum() <= top_k * NEWS:
                    return found
                first *= 2
        return None

    def _best(self, vector: np.ndarray, lists: int, top_k: int) -> np.ndarray:
        """The best admitted slots in the nearest lists, best first, with those that may belong to the ``top_k`` best."""
        asked = 2 * top_k
        parameters = self._of._faiss.SearchParametersIVF(nprobe=lists, sel=self._selector)
        while True:
            scores, found = (rows[0] for rows in self._of._index.search(vector[None], asked, params=parameters))
            # Unless the last ones are clearly worse, one that rounding or a tie put behind them may belong to the best.
            if found[-1] < 0 or scores[-1] < scores[top_k - 1] - ROUNDING:
                return found[found >= 0]  # faiss leaves -1 where it finds no more
            asked *= 2


@contextmanager
def _threads(faiss: Any) -> Iterator[None]:
    """Let faiss use as many threads as torch does here.

    faiss and torch may share one OpenMP, or each have its own, by the order in which they were loaded: so what was set
    before is set again.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
