"""How fast a training run is: documents and tokens per second, as the model sees them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch
from sentence_transformers.base.model import BaseModel

# Steps that the figures are averaged over.
STEPS = 20


class Throughput:
    """Counts what passes through a model while it trains.

    A document is one (query, document) pair that is scored; tokens are those of the texts, padding left out. A text
    that a batch holds once for several pairs counts once. ColBERT's documents are those that it encodes; its queries
    count as tokens only.

    Args:
        model: The model; a hook on it counts.
    """

    def __init__(self, model: BaseModel) -> None:
        self._documents = 0
        self._tokens: list[torch.Tensor] = []  # summed when a figure is wanted: a GPU is not made to wait in each step
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=STEPS + 1)
        self._total_tokens = 0
        self._marks.append((time.monotonic(), 0, 0))
        model[0].register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: tuple[Any, ...]) -> None:
        if not (torch.is_grad_enabled() and module.training):
            return
        features: dict[str, Any] = arguments[0]
        masks = [value for name, value in features.items() if name.endswith("mask")]
        self._tokens += [mask.sum() for mask in masks]
        self._tokens += [torch.tensor(len(document)) for document in features.get("states", ())]
        if features.get("task") != "query":  # which ColBERT encodes by itself
            self._documents += len(features["query_index"] if "query_index" in features else masks[0])

    def figures(self, processes: int = 1) -> dict[str, float]:
        """Means over the last steps; call it once for each step.

        Args:
            processes: All of them are as fast as this one.

        Returns:
            ``documents_per_second`` and ``tokens_per_second``, evaluation and saving included where they happened.
        """
        self._total_tokens += sum(int(count) for count in self._tokens)
        self._tokens.clear()
        now = (time.monotonic(), self._documents, self._total_tokens)
        self._marks.append(now)
        then = self._marks[0]
        seconds = max(now[0] - then[0], 1e-9)
        return {
            "documents_per_second": round(processes * (now[1] - then[1]) / seconds, 1),
            "tokens_per_second": round(processes * (now[2] - then[2]) / seconds, 1),
        }
