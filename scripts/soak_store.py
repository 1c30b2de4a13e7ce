"""A store beside processes that change it: one adds, changes, deletes and compacts, four search, and every answer is checked.

    python scripts/soak_store.py --seconds 60 [--store FOLDER/corpus.lance] [--readers 4]

Each document is one word of its own with its version (``w7 v3``). The states of a version are random numbers that follow from
both, and a document's score is read from its states, so that a reader can tell for each answer which version it was ranked
by. The writer notes when a commit began and when it was acknowledged. An answer is wrong if a score belongs to no version;
stale if it is older than the last commit that was acknowledged before the search began; it may be newer. Prints a table, and
ends with status 1 if anything was wrong, stale, or an exception.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
import zlib
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from mice_st.states.engines import open_store
from mice_st.states.errors import StoreLockedError
from mice_st.states.identity import Fingerprint

WIDTH = 16
DOCUMENTS = 200
MADE_BY = Fingerprint("w" * 64, "t" * 64, layer=4, max_length=64, prompt="", dtype="float32", codec="fp32", width=WIDTH)


@dataclass
class States:
    """Has what a store reads of ``DocumentStates``, without transformers in each process."""

    states: torch.Tensor
    input_ids: torch.Tensor


@dataclass
class Outcome:
    """What one reader saw.

    Attributes:
        searches: Searches made.
        answers: Documents checked.
        wrong: Answers that no version gives.
        stale: Answers older than the last commit acknowledged before the search.
        exceptions: Tracebacks.
        seconds: Time of each search.
    """

    searches: int = 0
    answers: int = 0
    wrong: int = 0
    stale: int = 0
    exceptions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def made(number: int, version: int) -> tuple[States, torch.Tensor]:
    """States and pooled vector of a version of a document."""
    rng = np.random.default_rng(zlib.crc32(f"{number}/{version}".encode()))
    tokens = 1 + (number * 7 + version) % 40
    states = torch.from_numpy(rng.standard_normal((tokens, WIDTH), dtype=np.float32))
    return States(states, torch.tensor([version, *range(1, tokens)])), states.mean(0).half()


def write(path: str, seconds: float, log: Any) -> None:
    """Change the store until the time is over; ``log`` gets (number, version or 0, begun, acknowledged)."""
    random = Random(1)
    now: dict[int, int] = {}
    version = 0
    counts = {"put": 0, "delete": 0, "compact": 0, "metadata": 0}
    end = time.monotonic() + seconds
    with open_store(path, MADE_BY, read_only=False) as store:
        while time.monotonic() < end:
            kind = random.choices(["put", "delete", "metadata", "compact"], [60, 25, 10, 5])[0]
            counts[kind] += 1
            begun = time.monotonic()
            try:
                changed = change(store, kind, random, now, version)
            except StoreLockedError:
                continue
            version += kind == "put"
            acknowledged = time.monotonic()
            for number, new in changed.items():
                log.append((number, new, begun, acknowledged))
    log.append(("counts", counts, 0.0, 0.0))


def change(store: Any, kind: str, random: Random, now: dict[int, int], version: int) -> dict[int, int]:
    """One change and its commit; returns document -> its new version, 0 for none."""
    if kind == "compact":
        store.compact()
        return {}
    if kind == "put":
        changed = dict.fromkeys(random.sample(range(DOCUMENTS), random.randint(1, 8)), version + 1)
        parts = [made(number, version + 1) for number in changed]
        store.put(
            [f"d{number}" for number in changed],
            [states for states, _ in parts],
            [str(version + 1)] * len(changed),
            texts=[f"common w{number} v{version + 1}" for number in changed],
            pooled=torch.stack([vector for _, vector in parts]),
            metadata=[{"part": number % 5} for number in changed],
        )
    else:
        there = random.sample(sorted(now), min(len(now), random.randint(1, 5)))
        changed = dict.fromkeys(there, 0) if kind == "delete" else {}
        if kind == "delete":
            store.delete([f"d{number}" for number in there])
        else:
            store.set_metadata([f"d{number}" for number in there], [{"part": n % 5, "seen": 1} for n in there])
    store.commit()
    now.update({number: new for number, new in changed.items() if new})
    for number in [number for number, new in changed.items() if not new]:
        now.pop(number, None)
    return changed


def read(path: str, seconds: float, seed: int, results: Queue) -> None:
    """Search until the time is over; sends what was seen, with the time before each search."""
    random = Random(seed)
    outcome = Outcome()
    seen: list[tuple[float, float, str, dict[int, int], int]] = []
    end = time.monotonic() + seconds
    store = open_store(path, None, read_only=True)
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            target = random.randrange(DOCUMENTS)
            stage = random.choice(["words", "vectors"])
            with store.reading():
                if stage == "words":
                    found = store.search_words(f"w{target}", 5)
                else:
                    found = store.search_vectors(torch.randn(WIDTH, generator=torch.Generator().manual_seed(target)), 8)
                known, states = store.get_known(list(found))
                texts = dict(store.texts(known))
            done = time.monotonic()
            outcome.searches += 1
            outcome.seconds.append(done - begun)
            versions = {}
            for place, id_ in enumerate(known):
                number = int(id_[1:])
                start, stop = states.offsets[place], states.offsets[place + 1]
                version = int(states.input_ids[start])
                right, _ = made(number, version)
                outcome.answers += 1
                sound = stop - start == len(right.input_ids) and torch.equal(states.decode(start, stop), right.states)
                if not sound or texts[id_] != f"common w{number} v{version}" or len(known) != len(found):
                    outcome.wrong += 1
                versions[number] = version
            seen.append((begun, done, stage, versions, target))
        except BaseException:
            outcome.exceptions.append(traceback.format_exc())
    store.close()
    results.put((outcome, seen))


def count_stale(log: list, seen: list) -> int:
    """Answers that were older than what had been acknowledged before the search began, or held what was deleted by then."""
    history: dict[int, list[tuple[int, float, float]]] = {}
    for number, version, begun, acknowledged in log:
        history.setdefault(number, []).append((version, begun, acknowledged))
    stale = 0
    for begun, done, stage, versions, target in seen:
        wanted = dict(versions)
        if stage == "words":
            wanted.setdefault(target, 0)  # a search for its word that did not find it
        for number, version in wanted.items():
            events = history.get(number, [])
            before = [event for event in events if event[2] < begun]
            allowed = {before[-1][0] if before else 0}
            allowed |= {event[0] for event in events if event[2] >= begun and event[1] <= done}
            stale += version not in allowed
    return stale


def soak(path: str, seconds: float, readers: int) -> tuple[dict[str, int], list[Outcome]]:
    """Run it.

    Returns:
        How often the writer did what, and what each reader saw.
    """
    open_store(path, MADE_BY, read_only=False).close()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        log = manager.list()
        results: Queue = context.Queue()
        writer = context.Process(target=write, args=(path, seconds, log))
        processes = [context.Process(target=read, args=(path, seconds, seed, results)) for seed in range(readers)]
        for process in [writer, *processes]:
            process.start()
        got = [results.get(timeout=seconds + 120) for _ in processes]
        for process in [writer, *processes]:
            process.join()
        events = list(log)
    if writer.exitcode:
        raise SystemExit(f"the writer ended with {writer.exitcode}")
    counts = events.pop()[1]
    outcomes = []
    for outcome, seen in got:
        outcome.stale = count_stale(events, seen)
        outcomes.append(outcome)
    with open_store(path, None, read_only=True) as store:
        problems = store.verify().problems
    if problems:
        raise SystemExit(f"the store has problems afterwards: {problems[:3]}")
    return counts, outcomes


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--store", help="Where to make it (default: a SQLite file in a temporary folder).")
    parser.add_argument("--json", help="Write the figures to this file too.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, outcomes = soak(options.store or f"{folder}/soak.sqlite", options.seconds, options.readers)
    print(f"writer: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    print("| reader | searches | answers checked | wrong | stale | exceptions | median ms | worst ms |")
    print("|---|---|---|---|---|---|---|---|")
    for number, outcome in enumerate(outcomes):
        times = sorted(outcome.seconds) or [0.0]
        print(
            f"| {number} | {outcome.searches} | {outcome.answers} | {outcome.wrong} | {outcome.stale} | "
            f"{len(outcome.exceptions)} | {1000 * times[len(times) // 2]:.1f} | {1000 * times[-1]:.0f} |"
        )
    for outcome in outcomes:
        for text in outcome.exceptions[:2]:
            print(text, file=sys.stderr)
    if options.json:
        rows = [{**vars(outcome), "seconds": None, "exceptions": len(outcome.exceptions)} for outcome in outcomes]
        Path(options.json).write_text(json.dumps({"writer": counts, "readers": rows}))
    return int(any(outcome.wrong or outcome.stale or outcome.exceptions for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
