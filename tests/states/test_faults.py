"""Stores whose process is killed, whose file is damaged, whose disk is full: nothing acknowledged is lost, nothing wrong is returned."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch

from mice_st.states.errors import StoreCorruptError, StoreError, StoreFullError, UnknownDocumentError
from mice_st.states.sqlite_store import SqliteStore
from tests.states.made import (
    FINGERPRINT,
    apply,
    contents,
    made,
    operations,
    put,
    read_or_unknown,
    versions_of,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

# Said at every fork once Lance is imported by a test beside these; the children use SQLite alone.
pytestmark = pytest.mark.filterwarnings("ignore:lance is not fork-safe")

IDS = [f"doc{i}" for i in range(60)]


def fork(task: Callable[[int], None]) -> tuple[int, int]:
    """Run ``task`` in a child, which gets a descriptor to write to; returns the child's pid and the reading end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            task(write_end)
            status = 0
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(write_end)
    return pid, read_end


def drain(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as pipe:
        return pipe.read()


def finish(pid: int, read_end: int) -> bytes:
    """Wait for a child that must end well, and return what it wrote."""
    written = drain(read_end)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child ended with {status}: {written.decode(errors='replace')}"
    return written


def open_writer(path: Path) -> SqliteStore:
    return SqliteStore(path, FINGERPRINT, read_only=False)


def open_reader(path: Path) -> SqliteStore:
    return SqliteStore(path, FINGERPRINT, read_only=True)


# Killed processes


def killed_writer(
    path: Path, seed: int, before: dict[str, int], operations_done: int, seconds: float
) -> tuple[dict[str, int], str]:
    """Kill a writer some seconds after it has acknowledged some operations (at most ten seconds after it began); check that the store holds what it had acknowledged, and at most the operation under way.

    Returns:
        The contents left behind, and the kind of operation that was under way.
    """

    def work(acknowledge: int) -> None:
        with open_writer(path) as store:
            for operation, _ in operations(seed, before):
                apply(store, operation)
                os.write(acknowledge, b".")

    pid, read_end = fork(work)
    seen = b""
    while len(seen) < operations_done and select.select([read_end], [], [], 10)[0]:
        seen += os.read(read_end, operations_done - len(seen)) or b"!"
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    acknowledged = seen + drain(read_end)
    os.waitpid(pid, 0)
    assert set(acknowledged) <= {ord(".")}, acknowledged.decode()
    done = len(acknowledged)
    states = [before, *(after for _, after in islice(operations(seed, before), done + 1))]
    under_way = next(islice(operations(seed, before), done, None))[0][0]
    if not path.exists():
        assert done == 0
        return before, "create"
    with open_reader(path) as store:  # a reader comes first: it must cope with the WAL as it lies
        found = contents(store)
        assert store.verify().problems == []
    assert found in (states[done], states[done + 1]), f"after {done} acknowledged operations"
    with open_writer(path) as store:
        assert contents(store) == found
    return found, under_way


def kill_many(path: Path, times: int) -> None:
    random = Random(times)
    before: dict[str, int] = {}
    kinds = set()
    for seed in range(times):
        before, kind = killed_writer(path, seed, before, random.randint(0, 6), 0.03 * random.random())
        kinds.add(kind)
    assert {"put", "delete", "compact"} <= kinds
    assert before


@needs_fork
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_many(tmp_path / "store.sqlite", 50)


@needs_fork
@pytest.mark.slow
def test_kill_9_five_hundred_times(tmp_path: Path) -> None:
    kill_many(tmp_path / "store.sqlite", 500)


# Damaged files


def filled(path: Path) -> dict[str, int]:
    """A closed store of a few pages with some holes in them; returns its contents."""
    versions = {id_: i + 1 for i, id_ in enumerate(IDS)}
    with open_writer(path) as store:
        put(store, dict.fromkeys(IDS, 777))
        put(store, versions)
        store.commit()
        store.compact()
        store.delete(IDS[50:])
    return dict(list(versions.items())[:50])


def probe(path: Path, right: dict[str, int]) -> int:
    """Use a damaged store in every way; returns how many reads were refused. AssertionError if one was wrong."""
    refused = 0
    try:
        with open_reader(path) as store:
            for id_ in IDS:
                try:
                    assert versions_of(store.get([id_]), [id_]) == {id_: right[id_]}
                except StoreError as error:
                    refused += id_ in right or not isinstance(error, UnknownDocumentError)
            for use in (
                lambda: versions_of(store.get(list(right)), list(right)) == right,
                lambda: all(text == f"text of {id_} {right[id_]}" for id_, text in store.texts()),
                lambda: all(len(vector) == 16 for vector in store.pooled()[1]),
                lambda: set(store.ids()) <= set(right),
                lambda: set(store.missing(list(right))) <= set(right),
                lambda: len(store) >= 0,
                lambda: set(store.search_words("text of doc7", 9)) <= set(right),
                lambda: set(store.search_vectors(torch.ones(16), 9)) <= set(right),
            ):
                try:
                    assert use()
                except StoreError:
                    refused += 1
            refused += not store.verify().ok
    except StoreError:
        refused += 1
    return refused


def write_to_damaged(path: Path) -> None:
    """Writing to a damaged store may fail, but only with the store's own exceptions."""
    try:
        with open_writer(path) as store:
            put(store, {"new": 5, "doc1": 6})
            store.commit()
            store.delete(["new"])
            store.compact()
    except StoreError:
        pass


def damage_many(path: Path, damage: Callable[[Random, bytes], bytes], times: int, suffix: str = "") -> list[int]:
    """Damage copies of a store, in a child that must survive them all; returns what ``probe`` returned for each."""
    right = filled(path)
    sound = {file.name.removeprefix(path.name): file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
    if suffix == "-wal":
        with open_writer(path) as store:
            put(store, {"doc1": 2})  # the same contents, now in the WAL
            put(store, {"doc2": 3000})
            store.commit()
            store.put(["doc2"], [made("doc2", 3)], ["3"], texts=["text of doc2 3"])  # type: ignore[list-item]
            store.commit()
            sound = {file.name.removeprefix(path.name): file.read_bytes() for file in path.parent.glob(f"{path.name}*")}

    def work(out: int) -> None:
        random = Random(times)
        copy = path.with_name("damaged.sqlite")
        for _ in range(times):
            for file in path.parent.glob("damaged.sqlite*"):
                file.unlink()
            for name, data in sound.items():
                Path(f"{copy}{name}").write_bytes(damage(random, data) if name == suffix else data)
            os.write(out, bytes([min(probe(copy, right), 255)]))
            write_to_damaged(copy)

    return list(finish(*fork(work)))


def flip(random: Random, data: bytes) -> bytes:
    """Flip one bit; every second time near the start of a page, where SQLite keeps its structure."""
    position = random.randrange(len(data))
    if random.random() < 0.5:
        position = min(position - position % 2048 + random.randrange(100), len(data) - 1)
    flipped = bytearray(data)
    flipped[position] ^= 1 << random.randrange(8)
    return bytes(flipped)


@needs_fork
def test_five_hundred_bit_flips_never_return_a_wrong_state(tmp_path: Path) -> None:
    refusals = damage_many(tmp_path / "store.sqlite", flip, 500)
    assert len(refusals) == 500
    assert sum(count > 0 for count in refusals) > 50  # the damage was felt
    assert sum(count == 0 for count in refusals) > 50  # ... and did not just make every store unreadable


@needs_fork
def test_fifty_truncations_never_return_a_wrong_state(tmp_path: Path) -> None:
    def cut(random: Random, data: bytes) -> bytes:
        return data[
            : random.choice([0, 1, 99, 4096, len(data) - 1, len(data) - 2048] + [random.randrange(len(data))] * 6)
        ]

    refusals = damage_many(tmp_path / "store.sqlite", cut, 50)
    assert len(refusals) == 50
    assert all(refusals)


def test_an_empty_damaged_store_is_not_filled_anew(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    filled(path)
    os.truncate(path, 0)
    with pytest.raises(StoreCorruptError):
        open_writer(path)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("column", ["payload", "input_ids", "id"])
def test_each_bit_of_a_row_is_covered(tmp_path: Path, column: str) -> None:
    path = tmp_path / "store.sqlite"
    versions = filled(path)
    short = next(
        id_ for id_ in versions if id_ != "doc8" and len(made(id_, versions[id_]).input_ids) < 25
    )  # in one page
    row = {
        "payload": made(short, versions[short]).states.numpy().tobytes(),
        "input_ids": made(short, versions[short]).input_ids.numpy().astype("<i4").tobytes(),
        "id": f"{short}{versions[short]}".encode(),  # id and hash, one after the other in the record
    }[column]
    data = path.read_bytes()
    # SQLite leaves copies behind where it has moved a row: all of them are damaged.
    starts = [start for start in range(len(data)) if data.startswith(row, start)]
    assert starts
    for bit in Random(1).sample(range(8 * len(row)), min(40, 8 * len(row))):
        damaged = bytearray(data)
        for start in starts:
            damaged[start + bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with open_reader(path) as store:
            with pytest.raises(StoreCorruptError, match=f"'{short}': the stored row is damaged"):
                store.get([short])
            assert not store.verify().ok
            assert versions_of(store.get(["doc8"]), ["doc8"]) == {"doc8": versions["doc8"]}


@needs_fork
def test_bit_flips_in_the_wal_never_return_a_wrong_state(tmp_path: Path) -> None:
    """SQLite ends a damaged WAL at its last sound commit, so older versions may come back, but only whole ones."""

    def work(out: int) -> None:
        path = tmp_path / "store.sqlite"
        right = filled(path)
        with open_writer(path) as store:
            for version in (3000, 3001, 3002):
                put(store, {"doc2": version, "doc3": version})
                store.commit()
            sound = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        random = Random(4)
        copy = tmp_path / "damaged.sqlite"
        for _ in range(100):
            for file in tmp_path.glob("damaged.sqlite*"):
                file.unlink()
            copy.write_bytes(sound[""])
            Path(f"{copy}-wal").write_bytes(flip(random, sound["-wal"]))
            with open_reader(copy) as store:
                found = contents(store)
            assert found.pop("doc2") in (right["doc2"], 3000, 3001, 3002)
            version = found.pop("doc3")
            assert version in (right["doc3"], 3000, 3001, 3002)
            assert found == {id_: v for id_, v in right.items() if id_ not in ("doc2", "doc3")}
            os.write(out, b"n" if version == 3002 else b"o")

    written = finish(*fork(work))
    assert len(written) == 100
    assert b"o" in written  # some flips did end the WAL early


# Full disks


def test_full_database_keeps_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_writer(path) as store:
        put(store, {"a": 1})
        store.commit()
        put(store, {"x": 1})
        assert store._writer is not None
        store._writer.execute("PRAGMA max_page_count = 200")
        with pytest.raises(StoreFullError, match=r"disk is full.*committed before is safe") as error:
            put(store, {f"d{i}": i for i in range(500)}, mean_tokens=100)
        assert isinstance(error.value, OSError)
        store.commit()
        assert contents(store) == {"a": 1}
        put(store, {"b": 2})  # a smaller one still fits
    with open_reader(path) as store:
        assert contents(store) == {"a": 1, "b": 2}


@needs_fork
@pytest.mark.parametrize("work", ["put", "compact"])
def test_file_size_limit_keeps_what_was_committed(tmp_path: Path, work: str) -> None:
    path = tmp_path / "store.sqlite"
    right = filled(path)
    size = path.stat().st_size

    def limited(out: int) -> None:
        with open_writer(path) as store:
            import resource  # there is none on Windows

            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            try:
                if work == "put":
                    for i in range(1000):
                        put(store, {f"new{i}_{j}": 1 for j in range(20)}, mean_tokens=100)
                else:
                    store.compact()
            except StoreFullError as error:
                os.write(out, str(error).encode())

    assert b"safe" in finish(*fork(limited)) or work == "compact"
    with open_writer(path) as store:
        assert contents(store) == right
        assert store.verify().ok


# Readers beside a writer


def read_beside(path: Path, seed: int, seconds: float) -> Callable[[int], None]:
    """A reader that checks each byte, that batches are of one commit, and that no document goes back to an older version."""

    def work(out: int) -> None:
        random = Random(seed)
        end = time.monotonic() + seconds
        newest = dict.fromkeys(IDS, 0)
        reads = 0
        with open_reader(path) as store:
            while time.monotonic() < end:
                ids = random.sample(IDS, random.randint(1, 30))
                found = read_or_unknown(store, ids)
                assert len(set(found.values())) <= 1, "a batch mixes two commits"
                for id_, version in found.items():
                    assert version >= newest[id_], f"{id_} went back from {newest[id_]} to {version}"
                    newest[id_] = version
                reads += bool(found)
        os.write(out, str(reads).encode())

    return work


def beside_a_writer(path: Path, seconds: float) -> None:
    with open_writer(path) as store:
        put(store, dict.fromkeys(IDS, 1))
    children = [fork(read_beside(path, seed, seconds)) for seed in range(4)]
    end = time.monotonic() + seconds
    version = 1
    with open_writer(path) as store:
        while time.monotonic() < end:
            version += 1
            put(store, dict.fromkeys(IDS, version))
            store.commit()
            if version % 10 == 0:
                store.delete(IDS)
                store.commit()
            if version % 25 == 0:
                store.compact()
        put(store, dict.fromkeys(IDS, version + 1))
    reads = [int(finish(*child)) for child in children]
    assert min(reads) > 0, reads
    assert version > 5
    with open_reader(path) as store:
        assert contents(store) == dict.fromkeys(IDS, version + 1)
        assert store.verify().ok


@needs_fork
def test_four_readers_beside_a_writer_for_3_seconds(tmp_path: Path) -> None:
    beside_a_writer(tmp_path / "store.sqlite", 3)


@needs_fork
@pytest.mark.slow
def test_four_readers_beside_a_writer_for_20_seconds(tmp_path: Path) -> None:
    beside_a_writer(tmp_path / "store.sqlite", 20)
