"""SqliteStore: what each method promises, and what it says when it refuses."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mice_st.states import sqlite_reader
from mice_st.states.engines import open_store
from mice_st.states.errors import (
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreReadOnlyError,
    StoreVersionError,
    UnknownDocumentError,
)
from mice_st.states.identity import Fingerprint, content_hash
from mice_st.states.sqlite_store import SqliteStore
from tests.states.made import FINGERPRINT, WIDTH, Document, contents, made, put, versions_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path, FINGERPRINT, read_only=False) as opened:
        yield opened


def reader(path: Path) -> SqliteStore:
    return SqliteStore(path, FINGERPRINT, read_only=True)


def put_one(store: SqliteStore, id_: str, document: Document, **more: object) -> None:
    store.put([id_], [document], ["h"], **more)  # type: ignore[list-item,arg-type]


def test_what_is_put_comes_back_in_the_order_asked(store: SqliteStore) -> None:
    put(store, {"a": 1, "b": 2, "ü🙂\"'": 3, "1": 4})
    store.commit()
    wanted = ["1", "b", "ü🙂\"'", "a", "b"]
    assert versions_of(store.get(wanted), wanted) == {"a": 1, "b": 2, "ü🙂\"'": 3, "1": 4}
    assert torch.equal(store.get(["b"]).decode(0, 1), made("b", 2).states[:1])
    assert len(store) == 4
    assert list(store.ids()) == ["a", "b", "ü🙂\"'", "1"]
    assert len(store.get([])) == 0


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "int4"])
def test_every_codec_survives_the_store(path: Path, codec: str) -> None:
    with SqliteStore(path, replace(FINGERPRINT, codec=codec), read_only=False) as store:
        put(store, {f"d{i}": i for i in range(1, 9)})
    with SqliteStore(path, None, read_only=True) as store:
        packed = store.get(["d7", "d3"])
        for i, id_ in enumerate(["d7", "d3"]):
            start, end = packed.offsets[i : i + 2]
            right = made(id_, int(id_[1:])).states
            payload, scales = store._format.codec.encode(right)
            assert torch.equal(packed.decode(start, end), store._format.codec.decode(payload, scales, WIDTH))
        assert store.verify().ok


def test_one_document_is_the_models_own_class(store: SqliteStore) -> None:
    from mice_st.modeling.layers_mice import DocumentStates

    put(store, {"a": 1})
    document = store.document("a")
    assert isinstance(document, DocumentStates)
    assert torch.equal(document.states, made("a", 1).states)
    assert torch.equal(document.input_ids, made("a", 1).input_ids)


def test_unchanged_is_left_alone_and_changed_replaced(store: SqliteStore) -> None:
    put(store, {"a": 1, "b": 1})
    store.commit()
    other = made("b", 2)
    report = store.put(["a", "b", "c"], [other, other, made("c", 9)], ["1", "2", "9"])  # type: ignore[list-item]
    assert (report.added, report.changed, report.unchanged) == (["c"], ["b"], ["a"])
    assert versions_of(store.get(["a", "c"]), ["a", "c"]) == {
        "a": 1,
        "c": 9,
    }  # the states offered for "a" were not looked at
    assert torch.equal(store.get(["b"]).decode(0, len(other.input_ids)), other.states)
    assert list(store.ids()) == ["a", "b", "c"]  # in the order of their last change


def test_stale_and_missing_say_what_to_encode(store: SqliteStore) -> None:
    put(store, {"a": 1, "b": 2})
    assert store.stale(["x", "b", "a"], ["0", "2", "other"]) == ["x", "a"]
    assert store.missing(["x", "b", "y"]) == ["x", "y"]
    with pytest.raises(ValueError, match="zip"):
        store.stale(["a"], [])


def test_text_that_comes_later_replaces_a_document_without(store: SqliteStore) -> None:
    put_one(store, "a", made("a", 1))
    with pytest.raises(StoreError, match="'a' was put without its text"):
        list(store.texts())
    with pytest.raises(StoreError, match="'a' was put without a pooled vector"):
        store.pooled()
    put_one(store, "a", made("a", 1), texts=["eins"])
    assert list(store.texts()) == [("a", "eins")]
    put_one(store, "a", made("a", 1), texts=["zwei"])  # same hash, text there: unchanged
    assert list(store.texts()) == [("a", "eins")]


def test_pooled_vectors_keep_ids_order_and_dtype(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_reader, "PAGE_ROWS", 3)  # several pages
    versions = {f"d{i}": i for i in range(1, 8)}
    put(store, versions)
    ids, matrix = store.pooled()
    assert ids == list(versions)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, torch.stack([made(id_, version).states.mean(0) for id_, version in versions.items()]))
    assert contents(store) == versions
    store.delete(ids)
    assert store.pooled()[1].shape == (0, 0)
    put_one(store, "a", made("a", 1), pooled=torch.tensor([[1.5, 2.0]], dtype=torch.float16))
    assert store.pooled()[1].dtype == torch.float16
    store.put(["b"], [made("b", 1)], ["h"], pooled=torch.tensor([[0.1, 3.0]]))  # type: ignore[list-item]
    assert torch.equal(store.pooled()[1], torch.tensor([[1.5, 2.0], [0.1, 3.0]]))
    with pytest.raises(ValueError, match="'c': pooled vector of 1 values, others have 2"):
        store.put(["c"], [made("c", 1)], ["h"], pooled=torch.tensor([[0.1]]))  # type: ignore[list-item]
    assert store.pooled()[0] == ["a", "b"]  # uncommitted, and still there


def test_unknown_ids_are_all_named(store: SqliteStore) -> None:
    put(store, {"a": 1})
    with pytest.raises(UnknownDocumentError, match=r"2 unknown document id.*'x', 'y'") as error:
        store.get(["x", "a", "y"])
    assert error.value.ids == ["x", "y"]
    with pytest.raises(UnknownDocumentError):
        store.delete(["a", "x"])
    assert store.missing(["a"]) == []  # nothing was deleted


@pytest.mark.parametrize(
    ("ids", "hashes", "message"),
    [
        (["a", "a"], ["1", "1"], "'a' is given twice"),
        (["a", ""], ["1", "1"], "an id is empty"),
        (["a", "b\0c"], ["1", "1"], "without NUL"),
        (["a", "\ud800"], ["1", "1"], "UTF-8"),
        (["a", "b"], ["1", ""], "'b' has no content hash"),
        (["a", "b"], ["1"], "2 ids but 1 hashes"),
    ],
)
def test_bad_ids_and_hashes_put_nothing(store: SqliteStore, ids: list[str], hashes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.put(ids, [made("a", 1), made("b", 1)], hashes)  # type: ignore[list-item]
    assert len(store) == 0


def test_bad_documents_put_nothing_and_are_named(store: SqliteStore) -> None:
    empty = Document(torch.empty(0, WIDTH), torch.empty(0, dtype=torch.int64))
    infinite = made("x", 1)
    infinite.states[0, 3] = float("inf")
    for bad, message in (
        (empty, "'b': states .*at least one token"),
        (Document(torch.zeros(2, WIDTH + 1), torch.tensor([1, 2])), r"'b': states \(2, 17\)"),
        (Document(torch.zeros(2, WIDTH), torch.tensor([1, 2, 3])), "'b': .*for 3 tokens"),
        (Document(torch.zeros(2, WIDTH), torch.tensor([1, -2])), "'b': token ids"),
        (infinite, "'b': row 0 .*not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            store.put(["a", "b"], [made("a", 1), bad], ["1", "2"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'a': pooled vector is not finite"):
        put_one(store, "a", made("a", 1), pooled=torch.full((1, 3), float("nan")))
    with pytest.raises(ValueError, match="'a': its text cannot be written"):
        put_one(store, "a", made("a", 1), texts=["\ud800"])
    assert len(store) == 0
    with pytest.raises(TypeError, match="not the string 'abc'"):
        store.get("abc")


def test_uncommitted_is_seen_by_the_writer_alone_and_dropped_on_error(path: Path) -> None:
    with SqliteStore(path, FINGERPRINT, read_only=False) as store, reader(path) as beside:
        put(store, {"a": 1})
        assert store.missing(["a"]) == []
        assert beside.missing(["a"]) == ["a"]
        store.commit()
        assert versions_of(beside.get(["a"]), ["a"]) == {"a": 1}
    with suppress(KeyError), SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"b": 1})
        raise KeyError
    with reader(path) as beside:
        assert contents(beside) == {"a": 1}


def test_closing_with_uncommitted_changes_warns(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(path, FINGERPRINT, read_only=False)
    put(store, {"a": 1})
    store.close()
    store.close()
    assert "uncommitted changes" in caplog.text
    with pytest.raises(ValueError, match="closed"):
        store.get(["a"])
    with pytest.raises(ValueError, match="closed"):
        store.commit()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_sha256", "x" * 64),
        ("tokenizer_sha256", "x" * 64),
        ("layer", 5),
        ("max_length", 512),
        ("prompt", "passage: "),
        ("dtype", "bfloat16"),
        ("codec", "int8"),
        ("width", 8),
    ],
)
def test_a_store_of_another_model_is_refused_by_field(path: Path, field: str, value: object) -> None:
    SqliteStore(path, FINGERPRINT, read_only=False).close()
    wanted = replace(FINGERPRINT, **{field: value})  # type: ignore[arg-type]
    named = field.removesuffix("_sha256").replace("weights", "model")
    shown = r"by a model without a name \(xxxxxxxx\)" if named != field else repr(value)  # no 64 digits
    for read_only in (True, False):
        with pytest.raises(StoreMismatchError, match=f"another {named}: made .*, to be used .*{shown}") as error:
            SqliteStore(path, wanted, read_only=read_only)
        assert error.value.field == field
    SqliteStore(path, FINGERPRINT, read_only=False).close()  # the refused writer has let go of the lock


def test_all_differing_fields_are_listed_and_newer_formats_refused() -> None:
    with pytest.raises(StoreMismatchError, match=r"another layer: .*also different: prompt"):
        FINGERPRINT.check(replace(FINGERPRINT, layer=1, prompt="q"))
    assert Fingerprint.from_json(FINGERPRINT.to_json()) == FINGERPRINT
    with pytest.raises(StoreVersionError, match="format version 3, this version of mice-st reads 2: install a newer"):
        Fingerprint.from_json(replace(FINGERPRINT, format_version=3).to_json())
    with pytest.raises(StoreCorruptError):
        Fingerprint.from_json("[]")


def test_writers_take_turns_and_readers_need_not(path: Path, store: SqliteStore) -> None:
    with SqliteStore(path, FINGERPRINT, read_only=False, lock_timeout=0.05) as second:
        put(store, {"a": 1})
        with pytest.raises(StoreLockedError, match=r"another writer holds it, for over 0\.05 s"):
            put(second, {"b": 1})
        with pytest.raises(StoreLockedError, match="another writer"):
            second.compact()
        store.commit()
        put(second, {"b": 1})
        with pytest.raises(StoreLockedError):
            SqliteStore(path, FINGERPRINT, read_only=False, lock_timeout=0).delete(["a"])
        second.delete(["b"])
        second.commit()
        assert store.put(["a"], [made("a", 1)], ["1"]).unchanged == ["a"]  # type: ignore[list-item]
        put(second, {"b": 1})  # what changes nothing keeps nobody waiting
        second.delete(["b"])
    with reader(path) as beside:
        assert contents(beside) == {"a": 1}
        with pytest.raises(StoreReadOnlyError, match="opened for reading"):
            put(beside, {"b": 1})
        with pytest.raises(StoreReadOnlyError, match="opened for reading"):
            beside.delete(["a"])
        with pytest.raises(StoreReadOnlyError, match="opened for reading"):
            beside.compact()


def test_settings_are_those_that_survive_a_power_cut(path: Path, store: SqliteStore) -> None:
    put(store, {"a": 1})
    assert store._writer is not None
    for pragma, value in (("page_size", 2048), ("journal_mode", "wal"), ("synchronous", 2), ("mmap_size", 0)):
        assert store._writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_missing_stores_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no store here"):
        SqliteStore(tmp_path / "none.sqlite", FINGERPRINT, read_only=True)
    with pytest.raises(StoreNotFoundError, match="no store here"):
        SqliteStore(tmp_path / "none.sqlite", None, read_only=False)
    with pytest.raises(StoreNotFoundError, match="no such folder"):
        SqliteStore(tmp_path / "none" / "x.sqlite", FINGERPRINT, read_only=False)
    assert not (tmp_path / "none.sqlite").exists()


def test_files_that_are_no_store_are_refused_and_kept(tmp_path: Path) -> None:
    text, empty, foreign = (tmp_path / name for name in ("text", "empty", "foreign"))
    text.write_text("not a database" * 99)
    empty.touch()
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for file in (text, empty, foreign):
        before = file.read_bytes()
        for read_only in (True, False):
            with pytest.raises(StoreCorruptError, match=f"{file.name} is damaged or no store"):
                SqliteStore(file, FINGERPRINT, read_only=read_only)
        assert file.read_bytes() == before
    (tmp_path / "lost.sqlite-wal").write_bytes(b"x")
    with pytest.raises(StoreCorruptError, match=r"-wal exists without lost\.sqlite"):
        SqliteStore(tmp_path / "lost.sqlite", FINGERPRINT, read_only=False)


def test_large_batches_read_by_threads_equal_small_ones(store: SqliteStore) -> None:
    versions = {f"d{i}": i for i in range(1, 700)}
    put(store, versions)
    for _ in range(2):  # first uncommitted, by the writer's connection; then by threads
        ids = sorted(versions, key=hash)
        assert versions_of(store.get(ids), ids) == versions
        with pytest.raises(UnknownDocumentError) as error:
            store.get([*ids, "x", *ids, "y"])
        assert error.value.ids == ["x", "y"]
        store.commit()
    assert store._pool is not None


def test_compact_gives_space_back_and_loses_nothing(path: Path, store: SqliteStore) -> None:
    versions = {f"d{i}": i for i in range(1, 400)}
    put(store, versions, mean_tokens=100)
    with pytest.raises(StoreError, match="commit before"):
        store.compact()
    store.commit()
    store.delete(list(versions)[:350])
    store.commit()
    report = store.compact()
    assert report.bytes_after == sum(
        file.stat().st_size for file in path.parent.iterdir() if not file.name.endswith("-shm")
    )
    assert report.bytes_after < report.bytes_before / 3
    left = list(versions)[350:]
    assert versions_of(store.get(left), left, mean_tokens=100) == {id_: versions[id_] for id_ in left}
    assert store.verify().ok


def test_verify_counts_and_finds_rows_that_disagree(path: Path) -> None:
    with SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {f"d{i}": i for i in range(1, 20)})
    with reader(path) as store:
        report = store.verify()
        tokens = sum(len(made(f"d{i}", i).input_ids) for i in range(1, 20))
        assert (report.ok, report.documents, report.tokens, report.state_bytes) == (
            True,
            19,
            tokens,
            tokens * WIDTH * 4,
        )
    with sqlite3.connect(path) as connection:  # what SQLite itself cannot know to be wrong
        connection.execute("UPDATE states SET n_tokens = n_tokens + 1 WHERE id = 'd3'")
        connection.execute("UPDATE documents SET text = 'other' WHERE id = 'd4'")
        connection.execute("UPDATE documents SET key = 100 WHERE id = 'd5'")
        connection.execute("UPDATE states SET payload = zeroblob(length(payload)) WHERE id = 'd6'")
        connection.execute("UPDATE states SET key = -key WHERE id IN ('d7', 'd8')")
        connection.execute("UPDATE states SET key = 15 + key WHERE key IN (-7, -8)")  # exchanged: 8 and 7
    connection.close()
    with reader(path) as store:
        for id_ in ("d3", "d5", "d6", "d7", "d8"):
            with pytest.raises(StoreCorruptError, match=f"'{id_}': the stored row is damaged"):
                store.get(["d1", id_])
        with pytest.raises(StoreCorruptError, match="'d4': its text"):
            list(store.texts())
        problems = "\n".join(store.verify().problems)
        for id_ in ("d3", "d4", "d5", "d6", "d7", "d8"):
            assert f"'{id_}'" in problems
        assert store.verify().documents == 13


def test_damaged_fingerprint_is_noticed(path: Path) -> None:
    SqliteStore(path, FINGERPRINT, read_only=False).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET fingerprint = replace(fingerprint, '\"layer\": 4', '\"layer\": 5')")
    connection.close()
    with pytest.raises(StoreCorruptError, match="the fingerprint is damaged"):
        SqliteStore(path, None, read_only=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies under folders that only root may enter
        yield Path(name)


@contextmanager
def no_write_access(folder: Path) -> Iterator[None]:
    """Take the right to write a folder away, root's as well."""
    user = os.geteuid()
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


# On Windows a folder that cannot be written to cannot be made by chmod.
needs_rights = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no users to become on this system")


@needs_rights
@pytest.mark.parametrize("read_before", [True, False])
def test_read_only_folder_can_be_read_and_says_so_to_a_writer(folder: Path, read_before: bool) -> None:
    path = folder / "store.sqlite"
    with SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1})
    if read_before:
        reader(path).close()
    files = sorted(folder.iterdir())
    assert len(files) == (5 if read_before else 3)  # a reader leaves -shm and an empty -wal behind
    with no_write_access(folder):
        with reader(path) as beside:
            assert contents(beside) == {"a": 1}
            assert beside.verify().ok
        with pytest.raises(StoreReadOnlyError, match="cannot be opened for writing"):
            SqliteStore(path, FINGERPRINT, read_only=False)
        with pytest.raises(StoreReadOnlyError, match="cannot be opened for writing"):
            SqliteStore(folder / "new.sqlite", FINGERPRINT, read_only=False)
    assert sorted(folder.iterdir()) == files


@needs_rights
def test_read_only_folder_hides_no_rows_of_a_writer_that_crashed(folder: Path, path: Path) -> None:
    with SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put(store, {"a": 1})
        store.commit()
        for suffix in ("", "-wal"):
            (folder / f"store.sqlite{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    with no_write_access(folder), pytest.raises(StoreReadOnlyError, match="-wal file holds rows"):
        reader(folder / "store.sqlite")
    with reader(folder / "store.sqlite") as beside:
        assert contents(beside) == {"a": 1}


def test_open_store_chooses_the_engine_by_path(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.sqlite", FINGERPRINT, read_only=False) as store:
        assert isinstance(store, SqliteStore)
        assert store.fingerprint == FINGERPRINT
    with pytest.raises(ValueError, match="takes no storage_options"):
        open_store(tmp_path / "x.sqlite", None, read_only=True, storage_options={"region": "x"})


def test_content_hash_is_sha256_of_the_text() -> None:
    assert content_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash("\ud800") != content_hash("\ud801")  # lone surrogates do not stop a corpus
