"""Kill a process (signal 9) that works on an index, again and again: nothing acknowledged may be lost, and nothing may disagree.

    python scripts/kill_store.py --kills 300 [--model hub_cards/mice-mini]

The model is loaded once; each trial forks a process that adds, changes, deletes, syncs, compacts, repairs a row that it has
damaged itself, and makes the first stage anew, and says after each that it is done. It is killed after a random time. What is
then in the index must be what had been acknowledged, or one of the commits of the operation under way, and `verify` must find
rows, words and vectors in agreement (while a repair is under way, after another repair). Needs `fork`: Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from mice_st import MiceCrossEncoder, MiceIndex

Texts = dict[str, str]
KINDS = {"add": 6, "delete": 2, "sync": 2, "compact": 1, "repair": 1, "index": 1}


def operations(seed: int, start: Texts) -> Iterator[tuple[str, Any, list[Texts]]]:
    """An endless, repeatable series: what to do, with what, and the contents after each of its commits."""
    random = Random(seed)
    now = dict(start)
    while True:
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind in ("delete", "repair") and not now:
            kind = "add"
        what: Any = None
        commits = [now]
        if kind == "add":
            ids = random.sample(range(30), random.randint(1, 4))
            what = {f"d{number}": f"text {random.randint(0, 999)} of {number}" for number in ids}
            commits = [now | what]
        elif kind == "delete":
            what = random.sample(sorted(now), min(len(now), random.randint(1, 3)))
            commits = [{id_: text for id_, text in now.items() if id_ not in what}]
        elif kind == "sync":
            kept = dict(random.sample(sorted(now.items()), max(len(now) - 2, 0)))
            what = kept | {f"d{random.randrange(30)}": f"synced {random.randint(0, 999)}"}
            commits = [now | what, what]
        elif kind == "repair":
            what = random.choice(sorted(now))
        yield kind, what, commits
        now = commits[-1]


def do(index: MiceIndex, path: Path, kind: str, what: Any) -> None:
    """One operation; it is acknowledged when this returns."""
    if kind == "add":
        index.add(what)
    elif kind == "delete":
        index.delete(what)
    elif kind == "sync":
        index.sync(what)
    elif kind == "compact":
        index.compact()
    elif kind == "repair":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE states SET payload = zeroblob(length(payload)) WHERE id = ?", (what,))
        connection.close()
        index.repair()
    else:
        index.store.rebuild_first_stage()


def trial(
    model: MiceCrossEncoder, path: Path, seed: int, before: Texts, operations_done: int, seconds: float
) -> tuple[Texts, str]:
    """Kill a process some seconds after it has acknowledged some operations, and check what it leaves behind.

    Returns:
        The contents, and what was under way.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            torch.set_num_threads(1)
            with MiceIndex.open(path, model, codec="int8") as index:
                for kind, what, _ in operations(seed, before):
                    do(index, path, kind, what)
                    os.write(write_end, b".")
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-3000:])
        os._exit(1)
    os.close(write_end)
    acknowledged = b""
    while len(acknowledged) < operations_done and select.select([read_end], [], [], 60)[0]:
        acknowledged += os.read(read_end, operations_done - len(acknowledged)) or b"!"
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    with os.fdopen(read_end, "rb") as pipe:
        acknowledged += pipe.read()
    os.waitpid(pid, 0)
    if set(acknowledged) - {ord(".")}:
        raise SystemExit(f"the process failed by itself: {acknowledged.decode(errors='replace')}")
    done = list(islice(operations(seed, before), len(acknowledged) + 1))
    under_way, _, commits = done[-1]
    allowed = [done[-2][2][-1] if len(done) > 1 else before, *commits]
    if not path.exists():
        assert not acknowledged, "an index that was acknowledged is gone"
        return before, "create"
    with MiceIndex.open(path, model, read_only=True) as index:  # a reader comes first, with the WAL as it lies
        found = dict(index.store.texts())
        problems = index.verify().problems
    assert found in allowed, (
        f"after {len(acknowledged)} operations, {under_way} under way: {found} is none of {allowed}"
    )
    with MiceIndex.open(path, model) as index:
        if problems and under_way == "repair":
            index.repair()
        assert index.verify().problems == [], problems
        assert dict(index.store.texts()) == found
    return found, under_way


def main() -> int:
    """Run the trials and print what was under way in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "hub_cards" / "mice-mini"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = MiceCrossEncoder(options.model, device="cpu")
    random = Random(options.kills)
    under_way: Counter[str] = Counter()
    now: Texts = {}
    with tempfile.TemporaryDirectory() as folder:
        with MiceIndex.open(Path(folder) / "warm.sqlite", model, codec="int8") as index:
            index.add({"a": "what is hashed, compiled and cached once"})  # each child has it from here
        for seed in range(options.kills):
            done, seconds = random.randint(0, 4), random.choice([0.01, 0.05, 0.2]) * random.random()
            now, kind = trial(model, Path(folder) / "index.sqlite", seed, now, done, seconds)
            under_way[kind] += 1
    print(f"{options.kills} kills, nothing lost, rows, words and vectors in agreement; under way: {dict(under_way)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
