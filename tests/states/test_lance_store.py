"""LanceStore: the same promises as SqliteStore, several writers, and versions that readers keep to."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

pytest.importorskip("lance")

from mice_st.states.engines import open_store
from mice_st.states.errors import (
    StoreCorruptError,
    StoreError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreReadOnlyError,
    UnknownDocumentError,
)
from mice_st.states.lance_store import LanceStore
from tests.states.made import FINGERPRINT, WIDTH, contents, made, put, versions_of

ROOT = Path(__file__).parents[2]


def start(script: str, *arguments: str) -> subprocess.Popen:
    """Run a script in a process of its own; Lance's threads do not survive a fork."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-4000:]
    return out.decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.lance"


@pytest.fixture
def store(path: Path) -> Iterator[LanceStore]:
    with LanceStore(path, FINGERPRINT, read_only=False) as opened:
        yield opened


def test_what_is_put_comes_back_before_and_after_commit(store: LanceStore) -> None:
    versions = {"a": 1, "b": 2, 'it\'s "ü🙂"': 3}
    put(store, versions)
    for _ in range(2):
        wanted = ['it\'s "ü🙂"', "a", "b", "a"]
        assert versions_of(store.get(wanted), wanted) == versions
        assert contents(store) == versions
        assert len(store) == 3
        ids, matrix = store.pooled()
        assert torch.equal(matrix, torch.stack([made(id_, versions[id_]).states.mean(0) for id_ in ids]))
        assert store.verify().ok
        assert store.verify().tokens == sum(len(made(*item).input_ids) for item in versions.items())
        store.commit()
    assert len(store.get([])) == 0


@pytest.mark.parametrize("committed", [False, True])
def test_unchanged_changed_stale_missing_deleted(store: LanceStore, committed: bool) -> None:
    put(store, {"a": 1, "b": 1, "c": 1})
    if committed:
        store.commit()
    report = store.put(["a", "b", "d"], [made("b", 2), made("b", 2), made("d", 9)], ["1", "2", "9"])  # type: ignore[list-item]
    assert (report.added, report.changed, report.unchanged) == (["d"], ["b"], ["a"])
    store.delete(["c"])
    for _ in range(2):
        assert store.missing(["a", "c", "x"]) == ["c", "x"]
        assert store.stale(["a", "b", "c"], ["1", "1", "1"]) == ["b", "c"]
        assert versions_of(store.get(["a", "b", "d"]), ["a", "b", "d"]) == {"a": 1, "b": 2, "d": 9}
        with pytest.raises(UnknownDocumentError) as error:
            store.get(["c", "a", "x"])
        assert error.value.ids == ["c", "x"]
        assert sorted(store.ids()) == ["a", "b", "d"]
        store.commit()
    with pytest.raises(StoreError, match=r"'[bd]' was put without its text"):
        list(store.texts())
    put(store, {"c": 7})
    with pytest.raises(UnknownDocumentError):
        store.delete(["a", "x"])
    store.commit()
    assert versions_of(store.get(["c"]), ["c"]) == {"c": 7}


def test_each_call_reads_the_latest_commit_and_reading_keeps_to_one(path: Path, store: LanceStore) -> None:
    put(store, {"a": 1})
    store.commit()
    with LanceStore(path, FINGERPRINT, read_only=True) as reader:
        put(store, {"a": 2, "b": 2})
        assert contents(reader) == {"a": 1}
        with reader.reading():
            assert contents(reader) == {"a": 1}
            store.commit()
            store.compact()
            with reader.reading():
                assert contents(reader) == {"a": 1}
                assert len(reader) == 1
            assert reader.search_words("text", 5).keys() == {"a"}
            assert reader.search_vectors(torch.ones(WIDTH), 5).keys() == {"a"}
            with ThreadPoolExecutor(1) as other:
                assert other.submit(contents, reader).result() == {"a": 2, "b": 2}, "another thread is not in it"
        assert contents(reader) == {"a": 2, "b": 2}
        assert reader.search_words("text", 5).keys() == {"a", "b"}
        reader.refresh()
        with pytest.raises(StoreReadOnlyError):
            put(reader, {"c": 1})
        with pytest.raises(StoreReadOnlyError):
            reader.compact()


def test_a_version_that_was_removed_is_read_as_the_latest(path: Path) -> None:
    with (
        LanceStore(path, FINGERPRINT, read_only=False, keep_versions=timedelta(0)) as store,
        LanceStore(path, FINGERPRINT, read_only=True) as reader,
    ):
        put(store, {f"d{i}": 1 for i in range(700)}, mean_tokens=3)
        store.commit()
        with reader.reading():
            assert len(reader) == 700
            rows = reader.ids()
            first = [next(rows) for _ in range(3)]
            put(store, {f"d{i}": 2 for i in range(700)}, mean_tokens=3)
            put(store, {"new": 2}, mean_tokens=3)
            store.commit()
            store.compact()
            assert versions_of(reader.get(["d5", "d600"]), ["d5", "d600"], 3) == {"d5": 2, "d600": 2}
            assert reader.missing(["new"]) == []
            rest = list(rows)
        assert len(set(first + rest)) == len(first + rest), "none twice"
        assert {*first, *rest} >= {f"d{i}" for i in range(700)}


def test_reading_keeps_what_was_not_committed_when_it_began(store: LanceStore) -> None:
    """A commit by another thread of the same object moves rows from memory to a version that this thread does not read."""
    put(store, {"a": 1, "b": 1})
    store.commit()
    put(store, {"a": 2, "c": 2})
    store.delete(["b"])
    with ThreadPoolExecutor(1) as other, store.reading():
        other.submit(store.commit).result()
        other.submit(put, store, {"d": 3}).result()
        assert contents(store) == {"a": 2, "c": 2}
        assert store.search_words("text", 5).keys() == store.search_vectors(torch.ones(WIDTH), 5).keys() == {"a", "c"}
        assert other.submit(contents, store).result() == {"a": 2, "c": 2, "d": 3}
        put(store, {"e": 4})  # what a thread does itself it sees
        store.delete(["a"])
        assert contents(store) == {"c": 2, "e": 4}
        store.commit()
        put(store, {"f": 5})
        assert contents(store) == {"c": 2, "e": 4, "f": 5}
        assert len(store) == 3
    assert contents(store) == {"c": 2, "d": 3, "e": 4, "f": 5}


def test_known_documents_are_got_and_others_left_out(store: LanceStore) -> None:
    put(store, {"a": 1, "b": 2, "c": 3})
    store.commit()
    store.delete(["b"])
    put(store, {"d": 4})
    known, packed = store.get_known(["x", "d", "b", "a", "d"])
    assert known == ["d", "a", "d"]
    assert versions_of(packed, known) == {"d": 4, "a": 1}
    assert store.get_known([])[0] == []


def test_compact_removes_only_versions_old_enough(path: Path) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        for version in range(1, 9):
            put(store, dict.fromkeys(["a", "b", "c"], version))
            store.commit()
        before = len(list(path.glob("_versions/*.manifest")))
        assert store.compact().bytes_before > 0
        assert len(list(path.glob("_versions/*.manifest"))) >= before  # a week has not passed
        put(store, {"d": 1})
        with pytest.raises(StoreError, match="commit before"):
            store.compact()
    with LanceStore(path, FINGERPRINT, read_only=False, keep_versions=timedelta(0)) as store:
        report = store.compact()
        assert report.bytes_after < report.bytes_before
        assert len(list(path.glob("_versions/*.manifest"))) == 1
        assert contents(store) == {"a": 8, "b": 8, "c": 8, "d": 1}
        assert store.verify().ok


def test_two_writers_of_one_id_leave_one_row(path: Path, store: LanceStore) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as other:
        put(store, {"a": 1, "b": 1})
        put(other, {"a": 2, "c": 2})
        store.commit()
        other.commit()
        assert contents(other) == {"a": 2, "b": 1, "c": 2}
        other.delete(["b"])
    store.refresh()
    assert contents(store) == {"a": 2, "c": 2}


def test_uncommitted_is_dropped_on_error_and_by_close(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LanceStore(path, FINGERPRINT, read_only=False)
    put(store, {"a": 1})
    store.close()
    store.close()
    assert "uncommitted changes" in caplog.text
    with pytest.raises(ValueError, match="closed"):
        store.get(["a"])
    with pytest.raises(ValueError, match="closed"):
        store.commit()
    with LanceStore(path, FINGERPRINT, read_only=True) as reader:
        assert contents(reader) == {}


def test_stores_of_others_and_missing_ones_are_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        LanceStore(path, FINGERPRINT, read_only=True)
    with pytest.raises(StoreNotFoundError):
        LanceStore(path, None, read_only=False)
    with pytest.raises(StoreNotFoundError, match="absent: no such folder"):
        LanceStore(tmp_path / "absent" / "x.lance", FINGERPRINT, read_only=False)
    assert list(tmp_path.iterdir()) == []
    LanceStore(path, FINGERPRINT, read_only=False).close()
    with pytest.raises(StoreMismatchError, match="another layer: made with 4, to be used with 5"):
        LanceStore(path, replace(FINGERPRINT, layer=5), read_only=True)
    with open_store(path, None, read_only=True) as opened:
        assert isinstance(opened, LanceStore)
        assert opened.fingerprint == FINGERPRINT
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    lance.write_dataset(pa.table({"id": ["a"]}), tmp_path / "foreign.lance")
    with pytest.raises(StoreCorruptError, match="no store of document states"):
        LanceStore(tmp_path / "foreign.lance", None, read_only=True)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    for name in [name for name in sys.modules if name.startswith("mice_st.states.lance_")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"needs the extra `lance`: pip install 'mice-st\[lance\]'"):
        importlib.import_module("mice_st.states.lance_store")


FLIPS = """
import sys
from pathlib import Path
from random import Random
import shutil
from mice_st.states.errors import StoreError
from mice_st.states.lance_store import LanceStore
from tests.states.made import FINGERPRINT, versions_of

path, times = Path(sys.argv[1]), int(sys.argv[2])
right = {f"d{i}": i for i in range(1, 40)}
random = Random(times)
for _ in range(times):
    copy = path.with_name("damaged.lance")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    file = random.choice([file for file in sorted(copy.rglob("*")) if file.is_file() and file.stat().st_size])
    data = bytearray(file.read_bytes())
    if random.random() < 0.2:
        del data[random.randrange(len(data)):]
    else:
        near_end = random.random() < 0.3  # where Lance keeps its metadata
        bit = random.randrange(8 * max(0, len(data) - 600) if near_end else 0, 8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    refused = False
    try:
        with LanceStore(copy, FINGERPRINT, read_only=True) as store:
            for ids in (list(right), ["d7"], ["d20", "d3"]):
                try:
                    assert versions_of(store.get(ids), ids) == {id_: right[id_] for id_ in ids}
                except StoreError:
                    refused = True
            try:
                assert all(text == f"text of {id_} {right[id_]}" for id_, text in store.texts())
            except StoreError:
                refused = True
            refused |= not store.verify().ok
    except StoreError:
        refused = True
    print("refused" if refused else "right", flush=True)
"""


def damage_many(path: Path, times: int) -> None:
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {f"d{i}": i for i in range(1, 20)})
        store.commit()
        put(store, {f"d{i}": i for i in range(20, 41)})
        store.commit()
        store.delete(["d40"])
    outcomes = finish(start(FLIPS, str(path), str(times))).split()
    assert len(outcomes) == times
    assert outcomes.count("refused") > times // 10
    assert outcomes.count("right") > times // 10


def test_damaged_files_never_return_a_wrong_state(path: Path) -> None:
    damage_many(path, 30)


@pytest.mark.slow
def test_many_damaged_files_never_return_a_wrong_state(path: Path) -> None:
    damage_many(path, 500)
