"""Which rows make a step, in an order that follows from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

# Rows are sorted by length within pools of this many times the rows that a batch may hold: long enough for hardly any padding,
# short enough that a batch is still drawn from everywhere.
POOL_ROWS = 4096


class ShuffledBatches(DefaultBatchSampler):
    """Batches of as many rows each, in an order that follows from seed and epoch alone."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        super().__init__(range(rows), batch_size=batch_size, drop_last=True, seed=seed)
        self.rows = rows
        self.seed = seed

    def count_rows(self, batches: int) -> int:
        """Rows in the first batches of a run, rows of later epochs again."""
        rows, epoch = 0, 0
        while batches > 0:
            self.set_epoch(epoch)
            sizes = [len(batch) for batch in self][:batches]
            rows, batches, epoch = rows + sum(sizes), batches - len(sizes), epoch + 1
        return rows

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the current epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows - self.batch_size + 1, self.batch_size):
            yield order[start : start + self.batch_size]


class TokenBatches(ShuffledBatches):
    """Batches of as many padded document tokens each: few long rows, or many short ones.

    Which rows meet in a batch is drawn once, with the seed; each epoch shuffles the batches, so that all epochs have as
    many steps.

    Args:
        sizes: ``(rows, 2)``: documents of each row, and tokens of its longest document.
        batch_tokens: Most of documents times longest document in a batch. A row beyond it makes a batch by itself.
        processes: The number of batches is a multiple of it; what is left over is left out.
        seed: Of the drawing.

    Raises:
        ValueError: If there are fewer batches than processes.
    """

    def __init__(self, sizes: np.ndarray, batch_tokens: int, processes: int, seed: int) -> None:
        super().__init__(len(sizes), 1, seed)
        order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).numpy()
        self._batches: list[np.ndarray] = []
        for start in range(0, len(order), POOL_ROWS):
            pool = order[start : start + POOL_ROWS]
            self._cut(pool[np.argsort(sizes[pool, 1], kind="stable")], sizes, batch_tokens)
        if len(self._batches) < processes:
            raise ValueError(
                f"batch_tokens: {batch_tokens} make {len(self._batches)} batches for {processes} processes"
            )
        self._count = len(self._batches) // processes * processes

    def _cut(self, pool: np.ndarray, sizes: np.ndarray, batch_tokens: int) -> None:
        """Cut rows, sorted by their longest document, into batches."""
        start = documents = 0
        for place, row in enumerate(pool):
            documents += int(sizes[row, 0])
            if (
                place > start and documents * int(sizes[row, 1]) > batch_tokens
            ):  # the longest document is the last row's
                self._batches.append(pool[start:place])
                start, documents = place, int(sizes[row, 0])
        self._batches.append(pool[start:])

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the current epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        for place in torch.randperm(len(self._batches), generator=generator).tolist()[: self._count]:
            yield self._batches[place].tolist()

    def __len__(self) -> int:
        return self._count
