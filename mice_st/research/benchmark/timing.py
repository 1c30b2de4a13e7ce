"""Timing of many things in one process, interleaved: a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm


@dataclass
class Task:
    """Something to time.

    Attributes:
        name: For the progress bar.
        run: What is timed.
        repetitions: How often.
        milliseconds: Of each repetition.
        result: Of the last repetition.
    """

    name: str
    run: Callable[[], Any]
    repetitions: int
    milliseconds: list[float] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds)


def interleave(repetitions: Sequence[int]) -> list[int]:
    """The order in which tasks take turns: each one's repetitions are spread evenly over the whole time.

    Args:
        repetitions: Of each task.

    Returns:
        Positions of the tasks, ``sum(repetitions)`` of them.
    """
    turns = [((turn + 0.5) / count, place) for place, count in enumerate(repetitions) for turn in range(count)]
    return [place for _, place in sorted(turns)]


def measure(tasks: Sequence[Task], description: str) -> None:
    """Run all tasks, interleaved, and note their times; they have been warmed up.

    Args:
        tasks: What to time; each is changed in place.
        description: For the progress bar.
    """
    gc.collect()
    order = interleave([task.repetitions for task in tasks])
    with tqdm(order, desc=description, unit="run", delay=2) as turns:
        for place in turns:
            task = tasks[place]
            turns.set_postfix_str(task.name, refresh=False)
            began = time.perf_counter()
            task.result = task.run()
            task.milliseconds.append(1000 * (time.perf_counter() - began))


def matrix_product(rows: int) -> tuple[Callable[[], Any], int]:
    """A large float32 matrix product, the yardstick of what the machine can do, and its operations."""
    left, right = torch.rand(rows, rows), torch.rand(rows, rows)
    out = torch.empty(rows, rows)
    return lambda: torch.mm(left, right, out=out), 2 * rows**3
