"""The scripts that hold a store to its promises, for a few seconds each: beside other processes, killed, and with damaged files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from mice_st import MiceCrossEncoder, MiceIndex  # noqa: E402
from scripts import damage_store, kill_store, soak_store  # noqa: E402

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def check_soak(path: Path, seconds: float) -> None:
    counts, outcomes = soak_store.soak(str(path), seconds, 2)
    assert counts["put"] > 0
    for outcome in outcomes:
        assert (outcome.wrong, outcome.stale, outcome.exceptions) == (0, 0, [])
        assert outcome.searches > 5
    assert sum(outcome.answers for outcome in outcomes) > 20


def test_readers_beside_a_writer_in_sqlite(tmp_path: Path) -> None:
    check_soak(tmp_path / "store.sqlite", 4)


@pytest.mark.slow
def test_readers_beside_a_writer_in_lance(tmp_path: Path) -> None:
    pytest.importorskip("lance")
    check_soak(tmp_path / "store.lance", 15)


def test_what_the_soak_calls_stale() -> None:
    """Versions 1 and 2 of one document, acknowledged at 11 and 21, deleted by 31."""
    log = [(7, 1, 10.0, 11.0), (7, 2, 20.0, 21.0), (7, 0, 30.0, 31.0)]

    def stale(begun: float, done: float, versions: dict[int, int], stage: str = "vectors") -> int:
        return soak_store.count_stale(log, [(begun, done, stage, versions, 7)])

    assert stale(12, 13, {7: 1}) == 0
    assert stale(12, 13, {7: 2}) == 1, "from the future"
    assert stale(12, 20.5, {7: 2}) == 0, "committed, and not yet acknowledged"
    assert stale(22, 23, {7: 1}) == 1
    assert stale(20.5, 22, {7: 1}) == 0
    assert stale(32, 33, {7: 2}) == 1, "deleted"
    assert stale(32, 33, {}, "words") == 0
    assert stale(22, 23, {}, "words") == 1, "not found, though it was there"


@needs_fork
@pytest.mark.slow
def test_kill_9_twenty_times(mice: MiceCrossEncoder, tmp_path: Path) -> None:
    with MiceIndex.open(tmp_path / "warm.sqlite", mice) as index:
        index.add({"a": "text"})
    now: dict[str, str] = {}
    kinds = set()
    for seed in range(20):
        now, kind = kill_store.trial(mice, tmp_path / "index.sqlite", seed, now, seed % 4, 0.01 * (seed % 5))
        kinds.add(kind)
    assert now
    assert kinds - {"create"}


def test_three_hundred_edits_of_the_files_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    files, right = damage_store.sound_files(tmp_path / "sound")
    assert {"", "-wal"} < files.keys()
    counts = damage_store.run_part(files, right, 7, 300, tmp_path)
    refused = sum(count for key, count in counts.items() if key.endswith("refused"))
    assert 30 < refused < 270, "the damage was felt, and did not make every store unreadable"
