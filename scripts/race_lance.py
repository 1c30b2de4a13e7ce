"""Races writers of Lance stores and prints what came of it: errors, rows lost, rows stored twice.

In each trial several writers, threads or processes, open a store that does not exist yet, all at once, and commit rows of
their own and rows that all of them put: creation and first commit in one.

    python scripts/race_lance.py --trials 200
    python scripts/race_lance.py --trials 20 --processes
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mice_st.states.lance_store import LanceStore
from tests.states.made import FINGERPRINT, put, versions_of

SHARED = ["shared0", "shared1"]


def write(uri: str, writer: int, options: dict[str, str] | None) -> None:
    """What one writer does: open or create, put, commit, and change something of its own."""
    with LanceStore(uri, FINGERPRINT, read_only=False, storage_options=options) as store:
        put(store, {f"own{writer}-{row}": 1 for row in range(2)} | dict.fromkeys(SHARED, writer + 1), mean_tokens=3)
        store.commit()
        store.delete([f"own{writer}-1"])


def outcome(uri: str, writers: int, options: dict[str, str] | None) -> str:
    """What a trial left behind, in a word."""
    with LanceStore(uri, FINGERPRINT, read_only=True, storage_options=options) as store:
        problems = store.verify().problems
        if problems:
            return "double" if "twice" in problems[0] else "damaged"
        if set(store.ids()) != {*SHARED, *(f"own{writer}-0" for writer in range(writers))}:
            return "lost"
        found = versions_of(store.get(SHARED), SHARED, 3)
        return "right" if set(found.values()) <= set(range(1, writers + 1)) else "wrong"


def race_threads(uri: str, writers: int, options: dict[str, str] | None) -> list[str]:
    """One trial with threads; returns errors."""
    together = threading.Barrier(writers)

    def start(writer: int) -> str:
        together.wait()
        try:
            write(uri, writer, options)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    with ThreadPoolExecutor(writers) as pool:
        return [error for error in pool.map(start, range(writers)) if error]


class Processes:
    """Writers in processes of their own, which wait for a line that names the store; Lance does not survive a fork."""

    def __init__(self, writers: int, options: dict[str, str] | None) -> None:
        command = [sys.executable, __file__, "--writer", json.dumps(options)]
        self._all = [
            subprocess.Popen([*command, str(writer)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for writer in range(writers)
        ]

    def race(self, uri: str) -> list[str]:
        """One trial; returns errors."""
        for process in self._all:
            assert process.stdin is not None
            process.stdin.write(f"{uri}\n")
            process.stdin.flush()
        answers = []
        for process in self._all:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        return [error for error in answers if error]

    def close(self) -> None:
        """Let the processes end."""
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def serve(options: dict[str, str] | None, writer: int) -> None:
    """Be one of those processes."""
    for line in sys.stdin:
        try:
            write(line.strip(), writer, options)
            print(json.dumps(""), flush=True)
        except Exception as error:
            print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)


def run(
    trials: int, writers: int, processes: bool, where: str = "", options: dict[str, str] | None = None
) -> tuple[Counter, list[str]]:
    """Race.

    Args:
        trials: How often.
        writers: Writers in each trial.
        processes: Whether they are processes, else threads.
        where: Address that the stores lie under; empty for a temporary folder.
        options: Credentials and endpoints.

    Returns:
        How often each outcome came, and all errors.
    """
    folder = "" if where else tempfile.mkdtemp()
    outcomes: Counter = Counter()
    errors: list[str] = []
    pool = Processes(writers, options) if processes else None
    try:
        for trial in range(trials):
            uri = f"{where or folder}/{trial}.lance"
            found = pool.race(uri) if pool is not None else race_threads(uri, writers, options)
            errors += found
            outcomes["error" if found else outcome(uri, writers, options)] += 1
    finally:
        if pool is not None:
            pool.close()
        if folder:
            shutil.rmtree(folder)
    return outcomes, errors


def main() -> None:
    """Read the arguments, race, and end with 1 if anything went wrong."""
    if sys.argv[1:2] == ["--writer"]:
        serve(json.loads(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="Race writers of Lance stores that do not exist yet.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--processes", action="store_true", help="processes instead of threads")
    parser.add_argument("--where", default="", help="address for the stores, such as s3://bucket/races")
    parser.add_argument("--options", type=json.loads, default=None, help="storage options as JSON")
    options = parser.parse_args()
    outcomes, errors = run(options.trials, options.writers, options.processes, options.where, options.options)
    print(dict(outcomes))
    for error in errors[:5]:
        print(error)
    sys.exit(set(outcomes) != {"right"})


if __name__ == "__main__":
    main()
