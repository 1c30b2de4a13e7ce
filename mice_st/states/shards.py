"""Encoding one shard of a corpus, in this process or in one of several.

A shard is some consecutive documents. What it becomes depends on its texts alone, never on who encodes it or when.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple, Self

import numpy as np
import torch
from transformers.utils import logging

from mice_st.modeling.layers_mice import DocumentStates
from mice_st.modeling.st_mice import MiceTransformer

from .passages import tokenize_documents


class EncodedShard(NamedTuple):
    """The documents of a shard as arrays, which cross process borders as they are.

    Attributes:
        states: ``(total_tokens, width)``, float32.
        input_ids: ``(total_tokens,)``, int32.
        lengths: Tokens of each document.
        passages: Passages of each document.
        pooled: ``(n_documents, width)``, float16, or None for a model without the pooled residual.
        cut: Documents that were cut at the maximum length.
    """

    states: np.ndarray
    input_ids: np.ndarray
    lengths: list[int]
    passages: list[int]
    pooled: np.ndarray | None
    cut: int

    def documents(self) -> list[DocumentStates]:
        """Views of the arrays, one per document."""
        states = torch.from_numpy(self.states).split(self.lengths)
        input_ids = torch.from_numpy(self.input_ids).long().split(self.lengths)
        return [DocumentStates(*pair) for pair in zip(states, input_ids, strict=True)]


def encode_shard(
    module: MiceTransformer, texts: Sequence[str], names: Sequence[str], overlap: int | None
) -> EncodedShard:
    """Encode the documents of one shard.

    Args:
        module: The model.
        texts: At least one document, whatever is put before them included.
        names: What an error calls each of them.
        overlap: Tokens that neighbouring passages share; None cuts documents at the maximum length instead.

    Raises:
        ValueError: If a text is not a string or holds a lone surrogate; names the document.
    """
    model = module.model
    passages = tokenize_documents(module, texts, overlap, names)
    ids = [passage for document in passages for passage in document]
    starts = [0, *np.cumsum([len(passage) for passage in ids]).tolist()]
    states = np.empty((starts[-1], model.config.state_width), dtype=np.float32)
    pooled = None
    if model.config.pooled_residual:
        pooled = torch.empty(len(ids), model.config.interaction_width, dtype=torch.float32)
    for positions, batch in module.encode_ids(ids, "document"):
        rows = batch.states.float().cpu().numpy()
        for place, position in enumerate(positions):
            states[starts[position] : starts[position + 1]] = rows[place, : len(ids[position])]
        if pooled is not None:
            pooled[positions] = model.pool(batch).cpu()
    counts = [len(document) for document in passages]
    cut, module.cut_texts["document"] = module.cut_texts["document"], 0
    return EncodedShard(
        states,
        np.array([token for passage in ids for token in passage], dtype=np.int32),
        [sum(len(passage) for passage in document) for document in passages],
        counts,
        # A document of several passages has the mean of theirs: a first stage needs one vector for each document.
        None if pooled is None else torch.stack([part.mean(0) for part in pooled.split(counts)]).half().numpy(),
        cut,
    )


class ShardWorkers:
    """Processes that encode shards; they end with the block, and with the process that started them.

    The model reaches them through a temporary folder: its weights are mapped from one file, not copied to each process.

    Args:
        module: The model, as it is now.
        processes: How many.
        overlap: As for ``encode_shard``.
    """

    def __init__(self, module: MiceTransformer, processes: int, overlap: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mice-st-workers-")
        module.save(self._folder.name)
        threads = max(1, torch.get_num_threads() // processes)
        arguments = (self._folder.name, str(module.model.device), str(module.model.dtype), threads, overlap)
        context = multiprocessing.get_context("spawn")  # a fork would inherit locked threads and open stores
        self._pool = ProcessPoolExecutor(processes, context, _start_worker, arguments)

    def submit(self, texts: Sequence[str], names: Sequence[str]) -> Callable[[], EncodedShard]:
        """Encode one shard as soon as a process is free.

        Returns:
            A function that waits for the shard and raises what ``encode_shard`` raises.

        Raises:
            ChildProcessError: If a process was killed; here or when waiting.
        """
        with _naming_a_killed_process():
            future = self._pool.submit(_work, texts, names)

        def result() -> EncodedShard:
            with _naming_a_killed_process():
                return future.result()

        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


@contextmanager
def _naming_a_killed_process() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that encodes was killed, perhaps for want of memory; what is stored stays: "
            "run again with fewer processes or smaller shards"
        ) from error


_worker: dict[str, tuple[MiceTransformer, int | None]] = {}  # of a process of ShardWorkers


def _start_worker(folder: str, device: str, dtype: str, threads: int, overlap: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    module = MiceTransformer.load(
        folder, local_files_only=True, model_kwargs={"dtype": getattr(torch, dtype.removeprefix("torch."))}
    )
    _worker["module"] = (module.to(device), overlap)


def _end_with_parent(folder: str) -> None:
    """A killed parent would otherwise leave its folder behind, and processes that wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _work(texts: Sequence[str], names: Sequence[str]) -> EncodedShard:
    module, overlap = _worker["module"]
    return encode_shard(module, texts, names, overlap)
