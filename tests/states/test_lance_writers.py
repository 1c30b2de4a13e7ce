"""Several writers of one Lance store, on a disk and on an object store: no row lost, none double, nobody refused."""

from __future__ import annotations

import ast
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lance")
pytest.importorskip("moto.server")

import lance
from botocore.exceptions import ClientError

from mice_st.states import lance_commit, lance_store
from mice_st.states.engines import open_store
from mice_st.states.errors import StoreError, StoreLockedError, StoreMovedError, StoreReadOnlyError
from mice_st.states.lance_store import LanceStore
from scripts import race_lance
from tests.loopback_s3 import LoopbackS3
from tests.states.made import FINGERPRINT, WIDTH, contents, operations, put, versions_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.lance"


@pytest.fixture
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock file, as on an object store."""
    monkeypatch.setattr(lance_store, "taking_turns", lambda *_: contextlib.nullcontext())


@pytest.fixture(scope="module")
def s3() -> Iterator[LoopbackS3]:
    with LoopbackS3() as server:
        yield server


def start(script: str, *arguments: str) -> subprocess.Popen:
    """Run a script in a process of its own; Lance's threads do not survive a fork."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-4000:]
    return out.decode()


# Creation and first commit


def all_right(outcomes: Any, trials: int) -> None:
    found, errors = outcomes
    assert errors == []
    assert dict(found) == {"right": trials}


def test_threads_that_create_and_fill_one_store_at_once_lose_nothing() -> None:
    all_right(race_lance.run(12, 3, processes=False), 12)


@pytest.mark.usefixtures("no_turns")
def test_nothing_rests_on_the_lock_file() -> None:
    all_right(race_lance.run(12, 3, processes=False), 12)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [False, True])
def test_two_hundred_creations_at_once(processes: bool) -> None:
    all_right(race_lance.run(200, 3, processes), 200)


def test_the_test_s_object_store_lets_one_of_many_conditional_puts_succeed(s3: LoopbackS3) -> None:
    """What S3 promises, and moto alone does not: see ``loopback_s3.py``."""
    client = s3.client()

    def puts(key: str) -> str:
        try:
            client.put_object(Bucket="states", Key=key, Body=b"x", IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "put"

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns often: moto alone fails this
    try:
        with ThreadPoolExecutor(8) as pool:
            for trial in range(200):
                assert sorted(pool.map(puts, [f"bare/{trial}"] * 2)) == ["PreconditionFailed", "put"]
    finally:
        sys.setswitchinterval(before)


def test_writers_on_s3_put_each_version_only_where_there_is_none(s3: LoopbackS3) -> None:
    all_right(race_lance.run(4, 3, processes=False, where="s3://states/races", options=s3.options()), 4)
    puts = [key for key in s3.conditional if key.startswith("/states/races/0.lance/_versions/")]
    assert len(set(puts)) == 7, "creation and two commits of three writers"
    assert len(puts) > 7, "some were refused"


@pytest.mark.slow
def test_processes_on_s3_lose_nothing(s3: LoopbackS3) -> None:
    all_right(race_lance.run(20, 3, processes=True, where="s3://states/processes", options=s3.options()), 20)


# Commits that meet


def meets(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> list[int]:
    """Let something happen between the moment a commit looks at the latest version and the moment it is made, once."""
    tries: list[int] = []
    real = lance_commit.replace_rows

    def slowly(dataset: Any, *arguments: Any) -> Any:
        tries.append(dataset.version)
        if len(tries) == 1:
            meanwhile()
        return real(dataset, *arguments)

    monkeypatch.setattr(lance_store, "replace_rows", slowly)
    return tries


@pytest.mark.usefixtures("no_turns")
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("kind", ["put", "delete", "compact", "rebuild", "empty"])
def test_a_commit_that_another_one_preceded_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, filled: bool
) -> None:
    with (
        LanceStore(path, FINGERPRINT, read_only=False) as store,
        LanceStore(path, FINGERPRINT, read_only=False) as other,
    ):
        start_with = {"a": 1, "b": 1, "c": 1} if filled else {}
        if filled:
            put(store, {"a": 1, "b": 1})
            store.commit()
            put(store, {"c": 1})
            store.commit()

        def meanwhile() -> None:
            monkeypatch.undo()  # the other one is not slow
            monkeypatch.setattr(lance_store, "taking_turns", lambda *_: contextlib.nullcontext())
            if kind == "put":
                put(other, {"a": 7, "new": 7, "theirs": 7})
            elif kind in ("delete", "empty"):
                other.delete(sorted(start_with)[: 1 if kind == "delete" else None])
            elif kind == "compact":
                other.compact()
            else:
                other.rebuild_first_stage()
            other.commit()

        tries = meets(monkeypatch, meanwhile)
        put(store, {"b": 2, "new": 2})
        if filled:
            store.delete(["c"])
        store.commit()
        right = {
            "put": start_with | {"a": 7, "theirs": 7},
            "delete": {id_: 1 for id_ in start_with if id_ != "a"},
            "empty": {},
        }.get(kind, start_with) | {"b": 2, "new": 2}
        right.pop("c", None)
        assert contents(other) == contents(store) == right
        assert store.verify().problems == []
        assert len(tries) == 1  # its own second try went to the function itself


def test_puts_and_deletes_of_a_commit_are_one_version(path: Path) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1, "b": 1})
        store.commit()
        before = lance.dataset(str(path)).version
        put(store, {"a": 2, "c": 2})
        store.delete(["b"])
        store.set_metadata(["c"], [{"x": 1}])
        store.commit()
        store.commit()
        assert lance.dataset(str(path)).version == before + 1
        assert contents(store) == {"a": 2, "c": 2}


def test_metadata_that_meet_new_states_do_not_bring_old_states_back(path: Path) -> None:
    with (
        LanceStore(path, FINGERPRINT, read_only=False) as store,
        LanceStore(path, FINGERPRINT, read_only=False) as other,
    ):
        put(store, {"a": 1, "b": 1, "c": 1})
        store.commit()
        store.set_metadata(["a", "b", "c"], [{"n": 1}, {"n": 2}, {"n": 3}])
        put(other, {"a": 2})
        other.delete(["b"])
        other.commit()
        assert store.metadata(["a"]) == [{"n": 1}]
        store.commit()
        assert contents(other) == {"a": 2, "c": 1}
        assert other.metadata(["a", "c"]) == [{"n": 1}, {"n": 3}]


def test_two_rows_of_one_id_are_read_as_the_later_and_named_and_removed(path: Path, tmp_path: Path) -> None:
    """Only a program that knows nothing of these commits writes them."""
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1, "b": 1, "c": 1})
        store.commit()
        with LanceStore(tmp_path / "o.lance", FINGERPRINT, read_only=False) as other:
            put(other, {"a": 2, "b": 2})
        lance.write_dataset(lance.dataset(str(tmp_path / "o.lance")).to_table(), str(path), mode="append")
        assert versions_of(store.get(["a", "c", "b"]), ["a", "c", "b"]) == {"a": 2, "b": 2, "c": 1}
        assert [problem for problem in store.verify().problems if "'a' is stored twice" in problem]
        damaged = store.damaged()
        assert [document.id for document in damaged] == ["a", "b"]
        assert damaged[0].text == "text of a 2"
        put(store, {"a": 3})
        store.discard(damaged[1:])
        store.commit()
        assert contents(store) == {"a": 3, "c": 1}
        assert store.verify().ok


def test_a_lock_that_others_hold_is_waited_for_and_named(path: Path) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False, lock_timeout=0.2) as store:
        put(store, {"a": 1})
        with (
            lance_commit.taking_turns(str(path), 1),
            pytest.raises(StoreLockedError, match=r"another writer has been at work for 0\.2 seconds"),
        ):
            store.commit()
        store.commit()
        assert contents(store) == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_to_be(path: Path) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1})
        path.parent.chmod(0o500)
        try:
            with pytest.raises(StoreReadOnlyError):
                store.commit()
        finally:
            path.parent.chmod(0o700)


def test_no_file_of_the_engine_needs_one_system() -> None:
    for file in (ROOT / "mice_st" / "states").glob("lance_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"fcntl", "msvcrt", "resource", "pwd"}, file


def write_many(uri: str, name: str, options: dict[str, str] | None) -> None:
    """One of several writers: puts and deletes its own rows, and fights over shared ones; the first batch races to create the store."""
    for batch in range(6):
        with LanceStore(uri, FINGERPRINT, read_only=False, storage_options=options) as store:
            put(store, {f"{name}-{batch}-{i}": 1 + i for i in range(20)} | {f"shared{i}": ord(name) for i in range(5)})
            if batch:
                store.delete([f"{name}-{batch - 1}-19"])


def check_written(uri: str, options: dict[str, str] | None) -> None:
    """No row of the three writers is lost, none is double, and each shared row is one writer's."""
    own = {
        f"{name}-{batch}-{i}": 1 + i
        for name in "xyz"
        for batch in range(6)
        for i in range(20)
        if not (i == 19 and batch < 5)
    }
    with LanceStore(uri, FINGERPRINT, read_only=False, storage_options=options) as store:
        found = contents(store)
        assert {id_: version for id_, version in found.items() if not id_.startswith("shared")} == own
        assert {id_ for id_ in found if id_.startswith("shared")} == {f"shared{i}" for i in range(5)}
        assert {version for id_, version in found.items() if id_.startswith("shared")} <= {ord(name) for name in "xyz"}
        store.compact()
        assert contents(store) == found
        assert store.verify().problems == []


def test_three_writing_threads_lose_no_row(path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(write_many, str(path), name, None) for name in "xyz"]:
            done.result()
    check_written(str(path), None)


@pytest.mark.slow
def test_three_writers_on_s3_lose_no_row(s3: LoopbackS3) -> None:
    uri = "s3://states/corpus.lance"
    script = f"from tests.states.test_lance_writers import write_many; write_many({uri!r}, %r, {s3.options()!r})"
    for process in [start(script % name) for name in "xyz"]:
        finish(process)
    check_written(uri, s3.options())
    with open_store(uri, FINGERPRINT, read_only=True, storage_options=s3.options()) as store:
        assert len(store) == 3 * 6 * 20 - 3 * 5 + 5


def test_a_store_on_s3_searches_moves_and_is_copied(s3: LoopbackS3, path: Path) -> None:
    uri = "s3://states/whole.lance"
    with LanceStore(uri, FINGERPRINT, read_only=False, storage_options=s3.options()) as store:
        put(store, {"a": 1, "b": 1})
        store.commit()
        assert list(store.search_words("text b", 1)) == ["b"]
        assert len(store.search_vectors(torch.ones(WIDTH), 5)) == 2
        store.compact()
        store.backup(str(path))
        store.backup("s3://states/copy.lance")
        moved = replace(FINGERPRINT, weights_sha256="x" * 64)
        migration = store.begin_migration(moved, store.settings)
        rows = migration.pending(9)
        migration.put(rows, [store.document(row.id) for row in rows], ["h"] * len(rows), None)
        assert migration.finish()
        assert sorted(store.ids()) == ["a", "b"]
    for where, options in ((str(path), None), ("s3://states/copy.lance", s3.options())):
        with LanceStore(where, FINGERPRINT, read_only=True, storage_options=options) as copy:
            assert contents(copy) == {"a": 1, "b": 1}
    listed = s3.client().list_objects_v2(Bucket="states", Prefix="whole.lance.next")
    assert listed["KeyCount"] == 0, "what the migration wrote beside is gone"


# Writers that are killed


KILLED = """
import sys
from mice_st.states.lance_store import LanceStore
from tests.states.made import FINGERPRINT, apply, operations
path, seed, before = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
with LanceStore(path, FINGERPRINT, read_only=False) as store:
    for operation, _ in operations(seed, before):
        apply(store, operation)
        print(".", end="", flush=True)
"""


def killed_writer(path: Path, seed: int, before: dict[str, int], chance: random.Random) -> tuple[dict[str, int], str]:
    """Kill a writer after some operations; what it had acknowledged is there, and at most the one under way.

    Returns:
        What it left behind, and the kind of operation that was under way.
    """
    process = start(KILLED, str(path), str(seed), repr(before))
    assert process.stdout is not None
    done = len(process.stdout.read(chance.randint(1, 12)))
    time.sleep(chance.random() * 0.03)
    process.kill()
    rest, error = process.communicate()
    done += len(rest)
    assert process.returncode == -signal.SIGKILL, error.decode()[-4000:]
    states = [before, *(after for _, after in islice(operations(seed, before), done + 1))]
    with LanceStore(path, FINGERPRINT, read_only=True) as store:
        found = contents(store)
        assert store.verify().problems == []
    assert found in (states[done], states[done + 1]), f"after {done} acknowledged operations"
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        assert contents(store) == found
    return found, next(islice(operations(seed, before), done, None))[0][0]


def kill_many(path: Path, times: int) -> set[str]:
    chance = random.Random(times)
    before: dict[str, int] = {}
    kinds = set()
    for seed in range(times):
        before, kind = killed_writer(path, seed, before, chance)
        kinds.add(kind)
    return kinds


def test_kill_9_loses_nothing_acknowledged(path: Path) -> None:
    kill_many(path, 1)


@pytest.mark.slow
def test_kill_9_thirty_times(path: Path) -> None:
    assert {"put", "delete", "compact"} <= kill_many(path, 30)


# Readers beside a writer


BESIDE = """
import sys, time
from datetime import timedelta
from mice_st.states.lance_store import LanceStore
from tests.states.made import FINGERPRINT, put
path, seconds = sys.argv[1], float(sys.argv[2])
ids = [f"d{i}" for i in range(30)]
end = None
with LanceStore(path, FINGERPRINT, read_only=False, keep_versions=timedelta(0)) as store:
    version = 1
    while end is None or time.monotonic() < end:
        end = end or time.monotonic() + seconds
        version += 1
        if version % 5 == 0:
            store.delete(ids[:10])
            store.commit()
        put(store, dict.fromkeys(ids, version), mean_tokens=5)
        store.commit()
        if version % 3 == 0:
            store.compact()
        print(version, flush=True)
"""


def search_beside(path: Path, over: threading.Event) -> int:
    """Search until it is over; returns how many versions were seen."""
    newest = 0
    versions = set()
    with LanceStore(path, FINGERPRINT, read_only=True) as store:
        while not over.is_set():
            found = store.search_words("text", 30)
            assert len(found) in (20, 30), "a search mixes two commits"
            assert len(store.search_vectors(torch.ones(WIDTH), 30)) in (20, 30)
            known, packed = store.get_known(list(found))
            of = set(versions_of(packed, known, 5).values())
            assert len(of) == 1, "a read mixes two commits"
            assert min(of) >= newest, "a reader went back"
            newest = max(of)
            versions |= of
            assert set(read_or_unknown_5(store, ["d1", "d29"])) <= {"d1", "d29"}
            assert len({text.split()[-1] for _, text in store.texts(["d15", "d25"])}) == 1
    return len(versions)


def read_or_unknown_5(store: LanceStore, ids: list[str]) -> dict[str, int]:
    known, packed = store.get_known(ids)
    return versions_of(packed, known, 5)


def beside_a_writer(path: Path, seconds: float) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {f"d{i}": 1 for i in range(30)}, mean_tokens=5)
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(search_beside, path, over) for _ in range(2)]
        try:
            written = finish(start(BESIDE, str(path), str(seconds))).split()
        finally:
            over.set()
        seen = [reader.result() for reader in readers]
    assert min(seen) > 2, seen
    with LanceStore(path, FINGERPRINT, read_only=True) as store:
        known, packed = store.get_known([f"d{i}" for i in range(30)])
        assert versions_of(packed, known, 5) == {f"d{i}": int(written[-1]) for i in range(30)}
        assert store.verify().ok


def test_readers_beside_a_writer_that_removes_old_versions(path: Path) -> None:
    beside_a_writer(path, 2)


@pytest.mark.slow
def test_readers_beside_a_writer_for_30_seconds(path: Path) -> None:
    beside_a_writer(path, 30)


def test_another_store_in_its_place_is_noticed(path: Path, tmp_path: Path) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1})
        store.commit()
        reader = LanceStore(path, FINGERPRINT, read_only=True)
        assert contents(reader) == {"a": 1}
    with LanceStore(tmp_path / "other.lance", FINGERPRINT, read_only=False) as other:
        for version in range(2, 6):
            put(other, {"b": version})
            other.commit()
    path.rename(tmp_path / "old.lance")
    (tmp_path / "other.lance").rename(path)
    with pytest.raises(StoreMovedError, match="another store was put in place"):
        contents(reader)
    with pytest.raises(StoreError):
        reader.search_words("text", 3)
    reader.close()
