"""``mice-st label``: a teacher's scores for rows of queries and documents, shard by shard, in one process or several."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mice_st.files import read_json, write_json
from mice_st.loading import model_hash, resolve_model
from mice_st.training.label_shards import Shard, label_shard, parse_rows, row_documents
from mice_st.training.parquet_rows import PARQUET, require_pyarrow, write_parquet
from mice_st.training.teachers import Teachers


@dataclass
class LabelOptions:
    """Score the documents of training rows by one or several teachers.

    Raises:
        FileNotFoundError: If a teacher is a released model, and its weights are not on this machine.
        ValueError: If a number is out of range.
    """

    teacher: list[str] = field(
        metadata={
            "help": "Folders, Hub ids or names of released models: cross-encoders, MICE, bi-encoders. Of several, standardised scores are averaged."
        }
    )
    data: list[str] = field(
        metadata={
            "help": "JSON Lines files: query, positive and negatives, or query and documents (what mice-st mine writes)."
        }
    )
    output: str = field(
        metadata={"help": "The same rows with scores: JSON Lines, or Parquet where the name ends in .parquet."}
    )
    limit: int | None = field(default=None, metadata={"help": "Only the first rows of each file."})
    standardize: bool = field(
        default=False, metadata={"help": "A single teacher too: mean 0 and standard deviation 1 for each query."}
    )
    stored_states_file: str | None = field(
        default=None,
        metadata={
            "help": "Store for the document states of the one MICE among the teachers: each text is encoded once, and training from frozen "
            "layers that starts as this teacher reads the same file."
        },
    )
    positive_bonus: float = field(
        default=0.0,
        metadata={
            "help": "Added to the score of each row's positive (not of documents that nobody judged), so that the student learns the "
            "judgement and keeps the teacher's order of all else."
        },
    )
    processes: int = field(default=1, metadata={"help": "Processes, each with the teachers; on GPUs, one for each."})
    shard_rows: int = field(default=64, metadata={"help": "Rows that are written together; a killed run loses those."})
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    max_length: int | None = field(default=None, metadata={"help": "Longest document or pair, in tokens."})
    bf16: bool = field(default=False, metadata={"help": "Teachers compute in mixed precision."})
    device: str | None = field(default=None, metadata={"help": "Where teachers compute; by default the best there is."})

    def __post_init__(self) -> None:
        self.teacher = [resolve_model(name) for name in self.teacher]
        for name in ("processes", "shard_rows", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if not math.isfinite(self.positive_bonus):
            raise ValueError(f"positive_bonus: must be finite, got {self.positive_bonus}")


def run_label(options: LabelOptions) -> None:
    """Label, and print how many rows there are."""
    rows = label(options)
    print(f"{options.output}: {rows} rows, scored by {', '.join(options.teacher)}")


def label(options: LabelOptions) -> int:
    """Score rows and write them to ``options.output``.

    Finished shards lie in ``<output>.parts`` until all are done, so that the same call again goes on from there.

    Returns:
        Number of rows written.

    Raises:
        FileNotFoundError: If a file or a teacher is missing.
        ImportError: If Parquet is wanted and pyarrow is not installed; the message names the extra.
        ValueError: If a line is no row, or a score is not finite (gives file and line), or the parts belong to another job.
        ChildProcessError: If a process was killed.
    """
    for path in options.data:
        if not Path(path).is_file():
            raise FileNotFoundError(f"data: there is no file {path}")
    if Path(options.output).suffix == PARQUET:
        require_pyarrow()  # before hours of labelling, not after
    parts = Path(f"{options.output}.parts")
    _claim(parts, options)
    total = sum(1 for _ in _shards(options, parts))
    missing = (shard for shard in _shards(options, parts) if not shard.target.is_file())
    with tqdm(total=total, desc="Labelling", unit="shard", delay=2) as progress:
        done = sum(1 for shard in _shards(options, parts) if shard.target.is_file())
        progress.update(done)
        for _ in _work(options, missing):
            progress.update()
    temporary = Path(f"{options.output}.tmp")
    write = write_parquet if Path(options.output).suffix == PARQUET else _join
    rows = write([shard.target for shard in _shards(options, parts)], temporary)
    temporary.replace(options.output)
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


def _claim(parts: Path, options: LabelOptions) -> None:
    """Bind the folder of parts to this job, or refuse the parts of another."""
    digest = hashlib.sha256()
    for path in options.data:
        with Path(path).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    job = {
        "data_sha256": digest.hexdigest(),
        "teachers": [model_hash(name) for name in options.teacher],
        "limit": options.limit,
        "standardize": options.standardize,
        "positive_bonus": options.positive_bonus,
        "shard_rows": options.shard_rows,
        "max_length": options.max_length,
        "bf16": options.bf16,
    }
    description = parts / "job.json"
    if description.is_file():
        before = read_json(description)
        if changed := [name for name, value in job.items() if before.get(name) != value]:
            raise ValueError(
                f"output: {parts} holds parts of another job ({', '.join(changed)} changed); delete it to start anew"
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_json(description, job)


def _shards(options: LabelOptions, parts: Path) -> Iterator[Shard]:
    """The shards of all files, one in memory at a time."""
    count = 0
    for path in options.data:
        with Path(path).open("rb") as content:
            lines: list[bytes] = []
            first = 1
            rows = 0
            for number, line in enumerate(content, start=1):
                rows += bool(line.strip())
                if options.limit is not None and rows > options.limit:
                    break
                lines.append(line)
                if len(lines) == options.shard_rows:
                    yield Shard(path, first, lines, parts / f"{count:06}.jsonl", options.positive_bonus)
                    lines, first, count = [], number + 1, count + 1
            if lines:
                yield Shard(path, first, lines, parts / f"{count:06}.jsonl", options.positive_bonus)
                count += 1


def _work(options: LabelOptions, shards: Iterator[Shard]) -> Iterator[None]:
    """Label shards; yields once for each that is written."""
    first = next(shards, None)
    if first is None:
        return
    if options.processes == 1 or options.stored_states_file is not None:
        teachers = _load(options, options.device)
        if options.stored_states_file is not None:  # a store has one writer
            teachers.read_states(options.stored_states_file, _texts(options, Path(f"{options.output}.parts")))
    if options.processes == 1:
        for shard in (item for group in ([first], shards) for item in group):
            label_shard(teachers, shard)
            yield
        return
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for place in range(options.processes):
        places.put(place)
    with ProcessPoolExecutor(options.processes, context, _start_worker, (options, places)) as pool:
        try:
            waiting = {pool.submit(_label_in_worker, first)}
            exhausted = False
            while waiting:
                while not exhausted and len(waiting) < 2 * options.processes:
                    following = next(shards, None)
                    exhausted = following is None
                    if following is not None:
                        waiting.add(pool.submit(_label_in_worker, following))
                finished = next(as_completed(waiting))
                waiting.remove(finished)
                finished.result()
                yield
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that labels was killed, perhaps for want of memory; finished parts stay: run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: dict[str, Teachers] = {}


def _start_worker(options: LabelOptions, places: Any) -> None:
    place = places.get()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.processes))
    device = options.device
    if device is None and torch.cuda.is_available():
        device = f"cuda:{place % torch.cuda.device_count()}"
    _worker["teachers"] = _load(options, device)
    if options.stored_states_file is not None:
        _worker["teachers"].read_states(options.stored_states_file)


def _label_in_worker(shard: Shard) -> None:
    label_shard(_worker["teachers"], shard)


def _texts(options: LabelOptions, parts: Path) -> Iterator[str]:
    """The documents of all rows."""
    for shard in _shards(options, parts):
        for row in parse_rows(shard):
            yield from row_documents(row)


def _load(options: LabelOptions, device: str | None) -> Teachers:
    return Teachers(options.teacher, device, options.max_length, options.batch_size, options.standardize, options.bf16)
