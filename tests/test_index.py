"""``MiceIndex``: what a user of stores calls, beside other processes, across migrations, damage and older formats."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from mice_st import MiceCrossEncoder, MiceIndex
from mice_st.commands import main as cli
from mice_st.data.collection import Document
from mice_st.states.engines import open_store, upgrade_store
from mice_st.states.errors import (
    StoreCorruptError,
    StoreLockedError,
    StoreMismatchError,
    StoreMovedError,
    StoreNotFoundError,
    StoreReadOnlyError,
    StoreVersionError,
    UnknownDocumentError,
)
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.sqlite_store import SqliteStore
from tests.conftest import shake
from tests.text_pairs import rank_alike

TEXTS = {
    "berlin": "many people live in berlin",
    "museum": "the museum is on the river",
    "cat": "a cat and a dog",
    "sort": "sort the list of string",
}
QUERY = "how many people live in berlin"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpus.sqlite"


@pytest.fixture
def index(path: Path, mice: MiceCrossEncoder) -> Iterator[MiceIndex]:
    with MiceIndex.open(path, mice, codec="fp32") as opened:
        yield opened


@pytest.fixture(scope="module")
def other_folder(mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model: the same shape, other weights."""
    model = MiceCrossEncoder(str(mice_folder), device="cpu")
    shake(model, seed=9)
    folder = tmp_path_factory.mktemp("other")
    model.save(str(folder))
    return folder


def of_texts(mice: MiceCrossEncoder, texts: dict[str, str], query: str = QUERY) -> list[dict]:
    """The obvious path: the model over the texts."""
    ids = list(texts)
    return [{**entry, "corpus_id": ids[entry["corpus_id"]]} for entry in mice.rank(query, list(texts.values()))]


def test_add_search_rank_get_delete(index: MiceIndex, mice: MiceCrossEncoder) -> None:
    report = index.add(TEXTS)
    assert (report.documents, report.added) == (4, 4)
    assert len(index) == 4
    assert "cat" in index
    assert "dog" not in index
    rank_alike(index.rank(QUERY, list(TEXTS)), of_texts(mice, TEXTS))
    found = index.search(QUERY, top_k=2, first_stage="vectors", return_documents=True)
    assert all(entry["text"] == TEXTS[entry["corpus_id"]] for entry in found)
    rank_alike([{k: v for k, v in e.items() if k != "text"} for e in found], of_texts(mice, TEXTS)[:2])
    assert index.get("cat") == Document("cat", TEXTS["cat"])
    assert [document.id for document in index.get_many(["sort", "cat"])] == ["sort", "cat"]
    assert index.add({"cat": "a cat"}).changed == 1
    assert index.get("cat").text == "a cat"
    assert index.delete("cat") == 1
    with pytest.raises(UnknownDocumentError, match="'cat'"):
        index.delete(["cat", "sort"])
    assert index.delete(["cat", "sort"], missing="ignore") == 1
    with pytest.raises(UnknownDocumentError, match="'cat'"):
        index.rank(QUERY, ["berlin", "cat"])
    partly = index.rank(QUERY, ["berlin", "cat", "museum"], missing="ignore")
    assert (len(partly), partly.dropped) == (2, 1)
    assert index.sync([("berlin", TEXTS["berlin"]), ("new", "a bird")]).removed == 1
    assert sorted(index.store.ids()) == ["berlin", "new"]
    many = index.rank_many([QUERY, "bird"], ["berlin", "new"])
    rank_alike(many[0], index.rank(QUERY, ["berlin", "new"]))
    assert [len(each) for each in index.rank_many([QUERY, "bird"], [["berlin"], ["new", "berlin"]])] == [1, 2]
    assert len(index.rank_many([QUERY, "bird"], top_k=1)[1]) == 1
    with pytest.raises(ValueError, match="1 lists of ids for 2 queries"):
        index.rank_many([QUERY, "bird"], [["berlin"]])


@pytest.mark.parametrize(
    "documents",
    [
        TEXTS,
        list(TEXTS.items()),
        [{"_id": id_, "text": text} for id_, text in TEXTS.items()],
        [{"id": id_, "text": text, "metadata": {}} for id_, text in TEXTS.items()],
        pd.DataFrame({"id": list(TEXTS), "text": list(TEXTS.values())}, index=[3, 1, 2, 0]),
        [Document(id_, text) for id_, text in TEXTS.items()],
    ],
    ids=["mapping", "tuples", "BEIR", "dictionaries", "frame", "documents"],
)
def test_documents_as_people_have_them_give_one_index(
    documents: object, index: MiceIndex, mice: MiceCrossEncoder
) -> None:
    index.add(documents)
    assert dict(index.store.texts()) == TEXTS
    index.add(iter(TEXTS.items()))
    rank_alike(index.rank(QUERY, list(TEXTS)), of_texts(mice, TEXTS))


def test_a_store_lends_its_own_settings(
    path: Path, mice: MiceCrossEncoder, mice_folder: Path, other_folder: Path
) -> None:
    with MiceIndex.open(
        path, mice, codec="int4", passages=True, overlap=5, tokenizer="trigram", prompt="find "
    ) as made:
        made.add(TEXTS)
    with MiceIndex.open(path) as index:  # no model: by the name that the store keeps
        assert (index.info.codec, index.info.model) == ("int4", str(mice_folder))
        assert (index.store.settings.overlap, index.store.settings.tokenizer) == (5, "trigram")
        assert index.add(TEXTS).unchanged == 4, "passages, overlap and prompt are the store's"
        assert index.search("berli", first_stage="bm25")[0]["corpus_id"] == "berlin"
    with MiceIndex.open(path, mice, codec="int4", passages=True) as index:
        assert len(index) == 4
    for name, value in (
        ("codec", "fp32"),
        ("prompt", ""),
        ("tokenizer", "unicode61"),
        ("passages", False),
        ("overlap", 4),
    ):
        with pytest.raises(ValueError, match=f"{name}: .* was made with .*, not {value!r}; leave it out"):
            MiceIndex.open(path, mice, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(StoreMismatchError, match=r"another model: made by .*mice.*to be used by .*other") as error:
        MiceIndex.open(path, str(other_folder))
    assert not any(len(word.strip("(),")) > 60 and "/" not in word for word in str(error.value).split())
    assert "int4" in str(MiceIndex.open(path, read_only=True).info)


def test_a_wrong_path_leaves_nothing_behind(tmp_path: Path, mice: MiceCrossEncoder) -> None:
    for how in ({"model": mice, "read_only": True}, {}, {"read_only": True}):
        with pytest.raises(StoreNotFoundError):
            MiceIndex.open(tmp_path / "typo.sqlite", **how)  # type: ignore[arg-type]
    with pytest.raises(StoreNotFoundError, match="no such folder"):
        MiceIndex.open(tmp_path / "absent" / "x.sqlite", mice)
    with pytest.raises(ValueError, match="overlap: needs passages"):
        MiceIndex.open(tmp_path / "x.sqlite", mice, overlap=3)
    with pytest.raises(ValueError, match="unknown codec"):
        MiceIndex.open(tmp_path / "x.sqlite", mice, codec="int2")
    for action in ("info", "verify", "compact", "repair", "upgrade", "index"):
        assert cli.main(["store", action, str(tmp_path / "typo.sqlite")]) == 2
    (tmp_path / "empty.jsonl").touch()
    before = sorted(tmp_path.iterdir())
    for corpus in ("absent.jsonl", "empty.jsonl"):
        assert (
            cli.main(["encode", "--documents", str(tmp_path / corpus), "--store", str(tmp_path / "typo.sqlite")]) == 2
        )
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_index_answers_with_nothing_and_says_why(index: MiceIndex) -> None:
    found = index.search(QUERY)
    assert (list(found), found.notes) == ([], ["the store is empty"])
    assert index.delete([]) == 0
    index.add([])
    assert len(index) == 0


# Freshness


def test_a_reader_sees_what_the_same_and_other_processes_commit(
    path: Path, mice: MiceCrossEncoder, run_python: Callable[..., str]
) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as writer:
        writer.add(TEXTS)
        with MiceIndex.open(path, mice, read_only=True) as reader:
            assert len(reader.search(QUERY)) == 4
            writer.delete("museum")
            assert {entry["corpus_id"] for entry in reader.search(QUERY)} == TEXTS.keys() - {"museum"}
            writer.add({"cat": "berlin people many live", "new": "people of berlin"})
            now = {**TEXTS, "cat": "berlin people many live", "new": "people of berlin"}
            del now["museum"]
            rank_alike(reader.search(QUERY), of_texts(mice, now))
            script = (
                "from mice_st.states.engines import open_store\n"
                "with open_store(sys.argv[1], None, read_only=False) as store:\n"
                "    store.delete(['new'])\n    store.commit()\n    store.compact()\n"
            )
            subprocess.run([sys.executable, "-c", "import sys\n" + script, str(path)], check=True, timeout=100)
            del now["new"]
            rank_alike(reader.search(QUERY), of_texts(mice, now))
            with pytest.raises(StoreReadOnlyError):
                reader.delete("cat")


def test_the_same_store_object_finds_what_it_was_given_since(index: MiceIndex) -> None:
    index.add({"cat": TEXTS["cat"]})
    assert [entry["corpus_id"] for entry in index.search(QUERY)] == ["cat"]
    index.add({"berlin": TEXTS["berlin"]})
    assert {entry["corpus_id"] for entry in index.search(QUERY)} == {"cat", "berlin"}


def test_a_search_reads_one_commit_from_beginning_to_end(
    path: Path, mice: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that is deleted between first stage and ranking is ranked as it was; nothing mixes."""
    with MiceIndex.open(path, mice, codec="fp32") as writer, MiceIndex.open(path, mice, read_only=True) as reader:
        writer.add(TEXTS)
        plain = SqliteStore.search_vectors

        def slow(store: SqliteStore, *arguments: object) -> dict[str, float]:
            found = plain(store, *arguments)  # type: ignore[arg-type]
            if store is reader.store:
                thread = threading.Thread(target=writer.delete, args=("museum",))
                thread.start()
                thread.join()
            return found

        monkeypatch.setattr(SqliteStore, "search_vectors", slow)
        found = reader.search(QUERY)
        assert found.dropped == 0
        rank_alike(found, of_texts(mice, TEXTS))
        monkeypatch.undo()
        assert "museum" not in {entry["corpus_id"] for entry in reader.search(QUERY)}


def test_threads_share_an_index(index: MiceIndex, mice: MiceCrossEncoder) -> None:
    index.add(TEXTS)
    right = index.search(QUERY)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(10):
                found = index.search(QUERY)
                rank_alike([entry for entry in found if entry["corpus_id"] in TEXTS], right)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        index.add({f"more{number}": "a bird"})
        index.delete(f"more{number}")
    for thread in threads:
        thread.join()
    assert not errors


# Metadata


def test_filters_hold_before_the_first_stage(index: MiceIndex) -> None:
    rows = [
        {
            "id": f"d{number}",
            "text": "people live in berlin",
            "metadata": {"year": 2000 + number, "lang": "de" if number % 2 else "en"},
        }
        for number in range(30)
    ]
    index.add(rows)
    found = index.search(QUERY, where={"lang": "de", "year": {">=": 2020}}, candidates=5, return_documents=True)
    assert {entry["metadata"]["year"] for entry in found} == {2021, 2023, 2025, 2027, 2029}
    assert index.search(QUERY, where={"lang": "fr"}).notes
    changed = index.add([{**rows[0], "metadata": {"lang": "fr"}}])
    assert (changed.unchanged, changed.metadata) == (1, 1), "metadata is replaced, nothing is encoded"
    assert [entry["corpus_id"] for entry in index.search(QUERY, where={"lang": "fr"})] == ["d0"]
    index.add([("d0", "people live in berlin")])
    assert index.get("d0").metadata == {"lang": "fr"}, "no metadata given: what is stored stays"
    with pytest.raises(ValueError, match="'year' has the operator '~'"):
        index.search(QUERY, where={"year": {"~": 1}})


# Life


def test_an_approximate_index_is_made_and_removed(index: MiceIndex, path: Path) -> None:
    index.add(TEXTS)
    before = index.search(QUERY, 3)
    assert index.build_ann() == len(TEXTS)
    assert Path(f"{path}-ann-2").exists()
    index.add({"late": "a late text"})
    assert len(index.search(QUERY, 10)) == len(TEXTS) + 1
    index.delete(["late"])
    assert index.search(QUERY, 3) == before
    assert index.verify().ok
    assert index.drop_ann()
    assert not Path(f"{path}-ann-2").exists()


def test_backup_of_an_index_in_use(path: Path, tmp_path: Path, mice: MiceCrossEncoder) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add(TEXTS)
        index.store.put(["x"], mice.encode_documents(["uncommitted"]), ["h"], texts=["u"], pooled=torch.zeros(1, 32))
        with MiceIndex.open(path, mice, read_only=True) as reader:
            reader.backup(tmp_path / "copy.sqlite")
        with pytest.raises(FileExistsError, match=r"copy\.sqlite"):
            index.backup(tmp_path / "copy.sqlite")
        index.store.delete(["x"])
        index.store.commit()
        index.add({"later": "a bird"})
    with MiceIndex.open(tmp_path / "copy.sqlite", mice) as copy:
        assert copy.verify().problems == []
        rank_alike(copy.search(QUERY), of_texts(mice, TEXTS))


def test_migration_answers_from_the_old_model_until_it_is_done(
    path: Path, mice: MiceCrossEncoder, mice_folder: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MiceCrossEncoder(str(other_folder), device="cpu")
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add([(id_, text, {"n": number}) for number, (id_, text) in enumerate(TEXTS.items())])
    follower = MiceIndex.open(path, read_only=True)  # finds its model by name, and follows
    stubborn = MiceIndex.open(path, mice, read_only=True)
    now = dict(TEXTS)
    from mice_st.states import migrate
    from mice_st.states.sqlite_migration import SqliteMigration

    monkeypatch.setattr(migrate, "SHARD_DOCUMENTS", 2)
    plain, calls = SqliteMigration.put, []

    def put(migration: SqliteMigration, *arguments: object) -> None:
        plain(migration, *arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 1:  # somebody is at work meanwhile
            with MiceIndex.open(path, mice) as beside:
                beside.delete("museum")
                beside.add({"sort": "a museum of berlin", "new": "many people"})
                del now["museum"]
                now.update(sort="a museum of berlin", new="many people")
                rank_alike(follower.rank(QUERY, list(now)), of_texts(mice, now))
            raise KeyboardInterrupt  # ... and the migration is broken off

    monkeypatch.setattr(SqliteMigration, "put", put)
    with MiceIndex.open(path) as index, pytest.raises(KeyboardInterrupt):
        index.migrate(other)
    rank_alike(follower.search(QUERY), of_texts(mice, now))
    with MiceIndex.open(path) as index:
        encoded = index.migrate(str(other_folder))
        assert encoded == 3, "what was put before stays: of berlin, cat, sort and new the first was done"
        rank_alike(index.rank(QUERY, list(now)), of_texts(other, now))
        assert index.verify().problems == []
        assert index.get("cat").metadata == {"n": 2}
        assert index.migrate(other) == 0
    rank_alike(follower.rank(QUERY, list(now)), of_texts(other, now))
    assert follower.model.mice.config._name_or_path == str(other_folder)
    assert {entry["corpus_id"] for entry in follower.search(QUERY)} == now.keys()
    with pytest.raises(StoreMovedError, match=r"moved to the model '.*other.*open it anew"):
        stubborn.search(QUERY)
    with pytest.raises(StoreMovedError):
        stubborn.store.get(["cat"])
    with pytest.raises(StoreMismatchError, match="another model"):
        MiceIndex.open(path, mice)
    follower.close()
    stubborn.close()


def test_repair_encodes_damaged_documents_anew_and_names_lost_ones(path: Path, mice: MiceCrossEncoder) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add([(id_, text, {"n": 1}) for id_, text in TEXTS.items()])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE states SET payload = zeroblob(length(payload)) WHERE id = 'cat'")
        connection.execute("DELETE FROM states WHERE id = 'berlin'")
        connection.execute("UPDATE documents SET text = 'other' WHERE id = 'sort'")
    connection.close()
    with MiceIndex.open(path, mice) as index:
        assert not index.verify().ok
        with pytest.raises(StoreCorruptError):
            index.search(QUERY)
        report = index.repair()
        assert (sorted(report.encoded), report.lost, report.copied) == (["berlin", "cat"], ["sort"], False)
        assert index.verify().problems == []
        left = {id_: text for id_, text in TEXTS.items() if id_ != "sort"}
        rank_alike(index.search(QUERY), of_texts(mice, left))
        assert index.get("cat").metadata == {"n": 1}
        again = index.repair()
        assert (again.encoded, again.lost, again.copied) == ([], [], False)


def test_repair_copies_what_can_be_read_of_a_file_with_unreadable_pages(path: Path, mice: MiceCrossEncoder) -> None:
    texts = {f"d{number}": f"people number {number} live in the city" for number in range(60)}
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add(texts)
        index.compact()
    damaged = bytearray(path.read_bytes())
    pages = len(damaged) // 2048
    for page in range(pages // 2, pages // 2 + 3):
        damaged[page * 2048 : page * 2048 + 600] = bytes(600)
    path.write_bytes(damaged)
    with MiceIndex.open(path, mice) as index:
        assert not index.verify().ok
        report = index.repair()
        assert report.copied
        assert index.verify().problems == []
        assert len(index) + len(report.lost) >= 50, "a few pages hold a few documents"
        here = {id_: texts[id_] for id_ in index.store.ids()}
        assert dict(index.store.texts()) == here
        rank_alike(index.rank(QUERY, list(here)), of_texts(mice, here))


# Version 1


def write_version_1(path: Path, mice: MiceCrossEncoder, texts: dict[str, str]) -> None:
    """A store as mice-st 0.1 wrote it, by hand."""
    made_by = json.loads(fingerprint_of(mice, "fp32").to_json()) | {"format_version": 1}
    line = json.dumps(made_by, sort_keys=True)
    seed = zlib.crc32(line.encode())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        """
        PRAGMA page_size = 65536; PRAGMA application_id = 0x4D494345; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
        CREATE TABLE meta (key INTEGER PRIMARY KEY CHECK (key = 1), fingerprint TEXT NOT NULL, crc INTEGER NOT NULL);
        CREATE TABLE documents (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL,
            n_tokens INTEGER NOT NULL, crc INTEGER NOT NULL, text TEXT, pooled BLOB);
        CREATE TABLE states (key INTEGER PRIMARY KEY, id TEXT NOT NULL, content_hash TEXT NOT NULL, n_tokens INTEGER NOT NULL,
            crc INTEGER NOT NULL, input_ids BLOB NOT NULL, scales BLOB NOT NULL, payload BLOB NOT NULL);
        """
    )
    connection.execute("INSERT INTO meta VALUES (1, ?, ?)", (line, zlib.crc32(line.encode())))
    for key, (id_, text) in enumerate(texts.items(), start=1):
        (document,) = mice.encode_documents([text])
        ids = document.input_ids.numpy().astype("<i4").tobytes()
        payload = document.states.numpy().tobytes()
        pooled = b"e" + document.states.mean(0).half().numpy().tobytes()
        hash_ = f"hash of {text}"
        crc = zlib.crc32(f"{id_}\0{hash_}\0{len(document)}".encode(), seed)
        crc = zlib.crc32(payload, zlib.crc32(b"", zlib.crc32(ids, crc)))
        connection.execute(
            "INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key, id_, hash_, len(document), crc, ids, b"", payload),
        )
        light = zlib.crc32(f"{id_}\0{hash_}\0{len(document)}\0{len(text)}\0{len(pooled)}".encode(), seed)
        light = zlib.crc32(pooled, zlib.crc32(text.encode(), light))
        connection.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", (key, id_, hash_, len(document), light, text, pooled)
        )
    connection.close()


def test_a_store_of_version_1_is_upgraded_without_encoding(
    path: Path, mice: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {**TEXTS, **{f"d{number}": f"people number {number}" for number in range(300)}}
    write_version_1(path, mice, texts)
    with pytest.raises(StoreVersionError, match=r"has format version 1, .* run `mice-st store upgrade"):
        MiceIndex.open(path, mice)
    from mice_st.states import sqlite_upgrade

    plain, copied = sqlite_upgrade._copy, []

    def copy(new: SqliteStore, batch: list) -> None:
        plain(new, batch)
        copied.append(len(batch))
        if len(copied) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_upgrade, "_copy", copy)
    with pytest.raises(KeyboardInterrupt):
        upgrade_store(path)
    monkeypatch.undo()
    with pytest.raises(StoreVersionError):
        open_store(path, None, read_only=True)
    held = sqlite3.connect(path)
    held.execute("SELECT count(*) FROM documents").fetchall()
    with pytest.raises(StoreLockedError, match="somebody has it open"):
        upgrade_store(path)
    held.close()
    assert cli.main(["store", "upgrade", str(path)]) == 0
    assert "304 documents" in capsys.readouterr().out
    assert upgrade_store(path) == 304
    left = {file.name for file in path.parent.iterdir() if "-vectors-" not in file.name}
    assert left <= {f"{path.name}{suffix}" for suffix in ("", ".lock", "-wal", "-shm")}
    with MiceIndex.open(path, mice) as index:
        assert index.verify().problems == []
        assert dict(index.store.texts()) == texts
        rank_alike(index.rank(QUERY, list(texts)), of_texts(mice, texts))
        assert index.search("berlin", first_stage="bm25")[0]["corpus_id"] == "berlin"


def test_a_damaged_store_of_version_1_is_left_as_it_is(path: Path, mice: MiceCrossEncoder) -> None:
    write_version_1(path, mice, TEXTS)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE states SET n_tokens = 3 WHERE id = 'cat'")
    connection.close()
    with pytest.raises(StoreCorruptError, match="'cat'"):
        upgrade_store(path)
    with pytest.raises(StoreVersionError):
        open_store(path, None, read_only=True)


# Commands


def run(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert cli.main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status == 2 else captured.out


def test_a_store_is_looked_after_from_the_command_line(
    path: Path, mice_folder: Path, other_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"

    def write(texts: dict[str, str]) -> None:
        rows = [{"_id": id_, "text": text, "metadata": {"words": len(text.split())}} for id_, text in texts.items()]
        corpus.write_text("\n".join(map(json.dumps, rows)))

    write(TEXTS)
    encode = ("encode", "--documents", corpus, "--store", path)
    assert "4 added" in run(capsys, *encode, "--model", mice_folder, "--codec", "fp32")
    write({id_: text for id_, text in TEXTS.items() if id_ != "museum"})
    printed = run(capsys, *encode)  # model and codec are the store's own
    assert "3 unchanged; 1 stored that the corpus does not have" in printed
    assert "--sync removes them" in printed
    assert "1 removed" in run(capsys, *encode, "--sync")
    assert "was made with 'fp32', not 'int8'" in run(capsys, *encode, "--codec", "int8", status=2)
    lines = [json.loads(line) for line in run(capsys, "rank", QUERY, "--store", path, "--json").splitlines()]
    assert {line["id"] for line in lines} == TEXTS.keys() - {"museum"}
    filtered = run(capsys, "rank", QUERY, "--store", path, "--json", "--where", '{"words": {">=": 5}}').splitlines()
    assert {json.loads(line)["id"] for line in filtered} == {"berlin", "cat", "sort"}
    assert cli.main(["rank", "?!", "--store", str(path), "--first-stage", "bm25"]) == 0
    assert "note: bm25 found nothing: the query holds no letter" in capsys.readouterr().err
    assert "1 documents removed, 2 left" in run(capsys, "store", "delete", path, "--ids", "sort")
    assert "'gone'" in run(capsys, "store", "delete", path, "--ids", "gone", status=2)
    assert "delete: needs --ids" in run(capsys, "store", "delete", path, status=2)
    assert "info: takes no --ids" in run(capsys, "store", "info", path, "--ids", "a", status=2)
    assert "1 added" in run(capsys, "store", "sync", path, "--documents", corpus)
    assert "words (trigram)" in run(capsys, "store", "index", path, "--tokenizer", "trigram")
    assert "3 documents copied" in run(capsys, "store", "backup", path, "--output", tmp_path / "copy.sqlite")
    assert "0 documents encoded anew; 0 lost" in run(capsys, "store", "repair", path)
    migrated = run(capsys, "store", "migrate", path, "--model", other_folder, "--codec", "int8")
    assert "3 documents encoded" in migrated
    assert "other" in migrated
    info = run(capsys, "store", "info", path)
    assert "codec: int8" in info
    assert f"model: {other_folder}" in info
    assert "0 problems" in run(capsys, "store", "verify", path)
    assert "0 problems" in run(capsys, "store", "verify", tmp_path / "copy.sqlite")


# What was tried from outside, and failed


def test_a_migration_amid_an_add_never_keeps_states_of_the_old_model(
    path: Path, mice: MiceCrossEncoder, other_folder: Path
) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add({"cat": TEXTS["cat"]})

        def documents() -> Iterator[tuple[str, str]]:
            yield "berlin", TEXTS["berlin"]
            index.migrate(str(other_folder))
            yield "museum", TEXTS["museum"]

        with pytest.raises(StoreMovedError):
            index.add(documents())
        index.add({"berlin": TEXTS["berlin"], "museum": TEXTS["museum"]})
        other = MiceCrossEncoder(str(other_folder), device="cpu")
        three = {id_: TEXTS[id_] for id_ in ("cat", "berlin", "museum")}
        rank_alike(index.rank(QUERY, list(three)), of_texts(other, three))


def test_a_shared_index_is_refreshed_migrated_and_compacted_beside_threads(
    path: Path, mice: MiceCrossEncoder, mice_folder: Path, other_folder: Path
) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as made:
        made.add(TEXTS)
    errors: list[BaseException] = []
    stop = threading.Event()
    added: list[str] = []
    with MiceIndex.open(path) as index:

        def work(number: int) -> None:
            try:
                count = 0
                while not stop.is_set():
                    if number < 2:
                        id_ = f"{number}-{count}"
                        try:
                            index.add({id_: "a bird"})
                        except StoreMovedError:
                            continue  # moved while it was encoded: to be added again
                        added.append(id_)
                    else:
                        assert {entry["corpus_id"] for entry in index.search(QUERY, 3)}
                    count += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        index.refresh()
        index.compact()
        index.migrate(str(other_folder))
        index.compact()
        index.refresh()
        index.repair()
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert set(added) | TEXTS.keys() <= set(index.store.ids())
        assert index.verify().problems == []


def test_a_copy_is_put_back_and_nothing_of_what_was_there_comes_through(
    path: Path, tmp_path: Path, mice: MiceCrossEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index = MiceIndex.open(path, mice, codec="fp32")
    index.add(TEXTS)
    index.backup(tmp_path / "copy.sqlite")
    names = {file.name.removeprefix("copy").removeprefix("corpus") for file in tmp_path.glob("*-vectors-*")}
    assert len(names) == 2, "no file of vectors has the name of another one"
    index.delete("cat")
    index.add({"later": "a bird"})
    assert "somebody has it open" in run(capsys, "store", "restore", path, "--copy", tmp_path / "copy.sqlite", status=2)
    assert "cat" not in index
    index.close()
    assert "4 documents" in run(capsys, "store", "restore", path, "--copy", tmp_path / "copy.sqlite")
    assert "4 documents" in run(capsys, "store", "restore", tmp_path / "new.sqlite", "--copy", tmp_path / "copy.sqlite")
    for name in ("corpus.sqlite", "new.sqlite", "copy.sqlite"):
        with MiceIndex.open(tmp_path / name, mice) as restored:
            assert dict(restored.store.texts()) == TEXTS
            assert restored.verify().problems == []


def test_metadata_can_be_taken_away(index: MiceIndex) -> None:
    index.add([("a", "text", {"lang": "de"}), ("b", "text", {"lang": "de"})])
    assert index.add([{"id": "a", "text": "text", "metadata": {}}]).metadata == 1
    assert index.get("a").metadata is None
    assert index.sync([("a", "text"), ("b", "text")]).metadata == 1, "after sync the documents are all there is"
    assert index.get("b").metadata is None
    assert not index.search("text", where={"lang": "de"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.delete("zz", missing="bogus"), "missing: must be 'raise' or 'ignore'"),
        (lambda index: index.rank("q", ["a"], missing="bogus"), "missing: must be"),
        (lambda index: index.rank_many(["q"], top_k=0), "top_k: must be an integer of at least 1, got 0"),
        (lambda index: index.search("q", top_k="3"), "top_k: must be an integer of at least 1, got '3'"),
        (lambda index: index.search("q", candidates=1.5), "candidates: must be an integer"),
        (lambda index: index.search(None), "query: expected a string, got None"),
        (lambda index: index.search("q", prompt=None), "prompt: expected a string"),
        (lambda index: index.search("q", first_stage=3), "first_stage: expected a name or a list"),
        (lambda index: index.delete(3), "ids: expected ids, got 3"),
        (lambda index: index.rank("q", None), "ids: expected ids, got None"),
        (lambda index: index.migrate(None), "model: expected a MiceCrossEncoder"),
        (lambda index: index.add([("a", "x"), ("a", "y")]), "'a' is there twice|'a' is given twice"),
        (lambda index: index.backup("absent/copy.sqlite"), "no such folder"),
    ],
)
def test_impossible_arguments_are_named(index: MiceIndex, call: Callable[[MiceIndex], object], message: str) -> None:
    with pytest.raises((ValueError, StoreNotFoundError), match=message):
        call(index)


def test_one_id_twice_is_refused_however_far_apart(index: MiceIndex) -> None:
    rows = [(f"d{number}", "a bird") for number in range(200)]
    with pytest.raises(ValueError, match="'d3' is there twice"):
        index.add([*rows, ("d3", "other")])
    assert index.get("d3").text == "a bird"


def test_what_was_read_before_an_error_of_any_kind_is_stored(index: MiceIndex) -> None:
    def documents() -> Iterator[tuple[str, str]]:
        yield "a", "text"
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        index.add(documents())
    assert "a" in index


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (":memory:", {}, "cannot be in memory"),
        ("", {}, "a store is a file"),
        (".", {}, "is a folder"),
        ("x.sqlite", {"passages": "yes"}, "passages: expected bool, got 'yes'"),
        ("x.sqlite", {"passages": True, "overlap": 1.5}, "overlap: expected int"),
        ("x.sqlite", {"prompt": 3}, "prompt: expected str"),
        ("x.sqlite", {"model": 3}, "model: expected a MiceCrossEncoder"),
    ],
)
def test_impossible_indexes_are_not_made(
    name: str, settings: dict, message: str, tmp_path: Path, mice: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        MiceIndex.open(name, **{"model": mice, **settings})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(Path, "symlink_to") or sys.platform == "win32", reason="links need rights there")
def test_both_names_of_a_linked_store_have_one_lock_and_one_file_of_vectors(
    path: Path, tmp_path: Path, mice: MiceCrossEncoder
) -> None:
    with MiceIndex.open(path, mice) as index:
        index.add(TEXTS)
    (tmp_path / "link.sqlite").symlink_to(path)
    with MiceIndex.open(tmp_path / "link.sqlite", mice) as index:
        index.add({"new": "a bird"})
    assert not list(tmp_path.glob("link.sqlite?*"))
    with MiceIndex.open(path, mice) as index:
        assert index.verify().problems == []
        assert "new" in index
