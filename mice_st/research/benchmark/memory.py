"""Peak memory of ranking from a store, in a process of its own, and how long a store takes to load.

The process loads the model and ranks one document, so that weights and libraries are in memory ("the model"); then it
reads all documents from the store and ranks them. The difference of the peaks is what ranking costs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.research.benchmark.systems import rank_states
from mice_st.states.sqlite_store import SqliteStore

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_ranking_memory(folder: Path, store: Path, query: str, ids: Sequence[str], threads: int = 1) -> dict:
    """Rank documents of a store in a fresh process.

    Args:
        folder: Of the model.
        store: SQLite store of its states.
        query: The query.
        ids: Documents to rank.
        threads: Of torch and of the store.

    Returns:
        ``model_mb``, ``peak_mb`` and ``above_model_mb``, in megabytes (10^6 bytes) of resident memory.

    Raises:
        ValueError: If the process fails; the message holds the end of what it wrote.
    """
    request = {"folder": str(folder), "store": str(store), "query": query, "ids": list(ids), "threads": threads}
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "mice_st.research.benchmark.memory"]
    process = subprocess.run(
        command, input=json.dumps(request), env=environment, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise ValueError(f"the process that measures memory failed: {process.stderr[-500:]}")
    return json.loads(process.stdout.splitlines()[-1])


def _rank_and_report(request: dict[str, Any]) -> dict[str, float]:
    """The work of the fresh process."""
    torch.set_num_threads(request["threads"])
    model = MiceCrossEncoder(request["folder"], device="cpu", local_files_only=True)
    with SqliteStore(request["store"], None, read_only=True, threads=request["threads"]) as store:
        rank_states(model, request["query"], store.get(request["ids"][:1]))
        before = _start_peak()
        rank_states(model, request["query"], store.get(request["ids"]))
        peak = _peak()
    return {"model_mb": before / 1e6, "peak_mb": peak / 1e6, "above_model_mb": (peak - before) / 1e6}


def _start_peak() -> int:
    """Forget the peak so far where the system can, and return the bytes in memory now."""
    try:
        CLEAR_REFS.write_text("5")
        return _status_bytes("VmRSS")
    except OSError:
        return _peak()  # the peak of loading the model: what ranking adds is then underestimated, never invented


def _peak() -> int:
    """Largest resident memory, bytes."""
    try:
        return _status_bytes("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")


def measure_loading(path: Path, ids: Sequence[str], threads: int) -> dict[str, float | None]:
    """Time to open a store and read all documents, CRC checked.

    Args:
        path: SQLite store.
        ids: Documents to read.
        threads: Of the store.

    Returns:
        ``cold_ms``, after the system was asked to forget the file (None where it cannot be asked), and ``warm_ms``.
    """
    cold = None
    if hasattr(os, "posix_fadvise"):
        for part in (path, Path(f"{path}-wal")):
            if part.exists():
                descriptor = os.open(part, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
        cold = _load_ms(path, ids, threads)
    else:
        _load_ms(path, ids, threads)
    return {"cold_ms": cold, "warm_ms": _load_ms(path, ids, threads)}


def _load_ms(path: Path, ids: Sequence[str], threads: int) -> float:
    began = time.perf_counter()
    with SqliteStore(path, None, read_only=True, threads=threads) as store:
        store.get(ids)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_rank_and_report(json.load(sys.stdin))) + "\n")
