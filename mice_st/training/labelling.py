"""A teacher's scores for rows of queries and documents, shard by shard, in one process or several."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

from mice_st.files import read_json, write_json
from mice_st.loading import model_hash
from mice_st.training.label_shards import Repeats, Shard, label_shard, parse_rows, row_documents
from mice_st.training.parquet_rows import PARQUET, require_pyarrow, write_parquet
from mice_st.training.teachers import Teachers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelJob:
    """Which rows are scored by whom, and where they go.

    Attributes:
        teacher: Folders or Hub ids of the teachers; of several, standardised scores are averaged.
        data: JSON Lines files of rows.
        output: File for the same rows with scores, JSON Lines or Parquet.
        limit: First rows of each file that are scored; None scores all.
        standardize: Whether the scores of a single teacher are standardised too, for each query.
        stored_states_file: Store for the document states of the one MICE among the teachers, or None.
        positive_bonus: Number added to the score of each row's positive.
        processes: Processes, each with the teachers.
        shard_rows: Rows that are written together.
        batch_size: Pairs or texts computed at a time.
        max_length: Longest document or pair, in tokens; None takes the model's own.
        bf16: Whether teachers compute in mixed precision.
        device: Where they compute; None takes the best there is.
        trust_remote_code: Whether code beside the weights of teachers is run.
    """

    teacher: list[str]
    data: list[str]
    output: str
    limit: int | None = None
    standardize: bool = False
    stored_states_file: str | None = None
    positive_bonus: float = 0.0
    processes: int = 1
    shard_rows: int = 64
    batch_size: int = 64
    max_length: int | None = None
    bf16: bool = False
    device: str | None = None
    trust_remote_code: bool = False


def label(job: LabelJob) -> int:
    """Score rows and write them to ``job.output``.

    Finished shards lie in ``<output>.parts`` until all are done, so that the same call again goes on from there.

    A negative with the text of its row's positive is dropped, and a row without any other negative passed over; one
    warning counts both.

    Returns:
        Number of rows written.

    Raises:
        FileNotFoundError: If a file or a teacher is missing.
        ImportError: If Parquet is wanted and pyarrow is not installed; the message names the extra.
        ValueError: If a line is no row, or a score is not finite (gives file and line), or the parts belong to another
            job.
        ChildProcessError: If a process was killed.
    """
    for path in job.data:
        if not Path(path).is_file():
            raise FileNotFoundError(f"data: there is no file {path}")
    if Path(job.output).suffix == PARQUET:
        require_pyarrow()  # before hours of labelling, not after
    parts = Path(f"{job.output}.parts")
    _claim(parts, job)
    total = sum(1 for _ in _shards(job, parts))
    missing = (shard for shard in _shards(job, parts) if not shard.target.is_file())
    with tqdm(total=total, desc="Labelling", unit="shard", delay=2) as progress:
        done = sum(1 for shard in _shards(job, parts) if shard.target.is_file())
        progress.update(done)
        dropped, passed_over = 0, 0
        for repeats in _work(job, missing):
            progress.update()
            dropped, passed_over = dropped + repeats.negatives, passed_over + repeats.rows
    if dropped:
        logger.warning(
            "%s: %d negatives have the text of their row's positive and are dropped; %d rows have no other negative and are "
            "passed over",
            job.output,
            dropped,
            passed_over,
        )
    temporary = Path(f"{job.output}.tmp")
    write = write_parquet if Path(job.output).suffix == PARQUET else _join
    rows = write([shard.target for shard in _shards(job, parts)], temporary)
    temporary.replace(job.output)
    shutil.rmtree(parts)
    return rows


def _join(parts: Sequence[Path], path: Path) -> int:
    """Put JSON Lines files together; gives the number of rows."""
    rows = 0
    with path.open("wb") as output:
        for part in parts:
            content = part.read_bytes()
            rows += content.count(b"\n")
            output.write(content)
    return rows


def _claim(parts: Path, job: LabelJob) -> None:
    """Bind the folder of parts to this job, or refuse the parts of another."""
    digest = hashlib.sha256()
    for path in job.data:
        with Path(path).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    described = {
        "data_sha256": digest.hexdigest(),
        "teachers": [model_hash(name) for name in job.teacher],
        "limit": job.limit,
        "standardize": job.standardize,
        "positive_bonus": job.positive_bonus,
        "shard_rows": job.shard_rows,
        "max_length": job.max_length,
        "bf16": job.bf16,
    }
    description = parts / "job.json"
    if description.is_file():
        before = read_json(description)
        if changed := [name for name, value in described.items() if before.get(name) != value]:
            raise ValueError(
                f"output: {parts} holds parts of another job ({', '.join(changed)} changed); delete it to start anew"
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_json(description, described)


def _shards(job: LabelJob, parts: Path) -> Iterator[Shard]:
    """The shards of all files, one in memory at a time."""
    count = 0
    for path in job.data:
        with Path(path).open("rb") as content:
            lines: list[bytes] = []
            first = 1
            rows = 0
            for number, line in enumerate(content, start=1):
                rows += bool(line.strip())
                if job.limit is not None and rows > job.limit:
                    break
                lines.append(line)
                if len(lines) == job.shard_rows:
                    yield Shard(path, first, lines, parts / f"{count:06}.jsonl", job.positive_bonus)
                    lines, first, count = [], number + 1, count + 1
            if lines:
                yield Shard(path, first, lines, parts / f"{count:06}.jsonl", job.positive_bonus)
                count += 1


def _work(job: LabelJob, shards: Iterator[Shard]) -> Iterator[Repeats]:
    """Label shards; yields what was dropped of each, once it is written."""
    first = next(shards, None)
    if first is None:
        return
    if job.processes == 1 or job.stored_states_file is not None:
        teachers = _load(job, job.device)
        if job.stored_states_file is not None:  # a store has one writer
            teachers.read_states(job.stored_states_file, _texts(job, Path(f"{job.output}.parts")))
    if job.processes == 1:
        for shard in (item for group in ([first], shards) for item in group):
            yield label_shard(teachers, shard)
        return
    yield from _work_in_processes(job, first, shards)


def _work_in_processes(job: LabelJob, first: Shard, shards: Iterator[Shard]) -> Iterator[Repeats]:
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for place in range(job.processes):
        places.put(place)
    with ProcessPoolExecutor(job.processes, context, _start_worker, (job, places)) as pool:
        try:
            with interrupts_held():
                waiting = {pool.submit(_label_in_worker, first)}
            exhausted = False
            while waiting:
                while not exhausted and len(waiting) < 2 * job.processes:
                    following = next(shards, None)
                    exhausted = following is None
                    if following is not None:
                        with interrupts_held():
                            waiting.add(pool.submit(_label_in_worker, following))
                finished = next(as_completed(waiting))
                waiting.remove(finished)
                yield finished.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that labels was killed, perhaps for want of memory; finished parts stay: run again"
            ) from error
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():  # waiting for them could take minutes
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let processes that start within the block never see Ctrl-C: the process that started them decides.

    Without it, each of them prints a traceback if Ctrl-C comes while it imports. Signals that arrive meanwhile follow
    at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its own start would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Teachers] = {}


def _start_worker(job: LabelJob, places: Any) -> None:
    # tqdm's own lock is a semaphore between processes, which would outlive a worker that is terminated.
    plain_tqdm.set_lock(threading.RLock())
    place = places.get()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
    device = job.device
    if device is None and torch.cuda.is_available():
        device = f"cuda:{place % torch.cuda.device_count()}"
    _worker["teachers"] = _load(job, device)
    if job.stored_states_file is not None:
        _worker["teachers"].read_states(job.stored_states_file)


def _label_in_worker(shard: Shard) -> Repeats:
    return label_shard(_worker["teachers"], shard)


def _texts(job: LabelJob, parts: Path) -> Iterator[str]:
    """The documents of all rows."""
    for shard in _shards(job, parts):
        for row in parse_rows(shard)[0]:
            yield from row_documents(row)


def _load(job: LabelJob, device: str | None) -> Teachers:
    return Teachers(
        job.teacher, device, job.max_length, job.batch_size, job.standardize, job.bf16, job.trust_remote_code
    )
