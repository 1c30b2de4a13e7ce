"""What a Lance store finds by itself: exact after any history, whatever is indexed; as the SQLite store, which shares no code with it."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lance")

import lance
import pyarrow as pa  # type: ignore[import-untyped]

from mice_st.states import lance_upkeep, lance_words
from mice_st.states.engines import open_store, upgrade_store
from mice_st.states.errors import StoreCorruptError, StoreError, StoreMismatchError, StoreMovedError, StoreVersionError
from mice_st.states.identity import StoreSettings, Tokenizer
from mice_st.states.lance_store import LanceStore
from mice_st.states.lance_vectors import VectorCache
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.store import Store
from mice_st.states.where import Where
from tests.states.made import FINGERPRINT, contents, made, put, versions_of
from tests.states.test_search import LANGUAGES, QUERIES, put_texts, text_of

MOVED = replace(FINGERPRINT, weights_sha256="x" * 64, width=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.lance"


@pytest.fixture
def store(path: Path) -> Iterator[LanceStore]:
    with LanceStore(path, FINGERPRINT, read_only=False) as opened:
        yield opened


def as_sqlite(store: Store, folder: Path, tokenizer: Tokenizer = "unicode61") -> SqliteStore:
    """A SQLite store with the same documents."""
    settings = StoreSettings(tokenizer=tokenizer)
    other = SqliteStore(folder / f"{Random().random()}.sqlite", FINGERPRINT, read_only=False, settings=settings)
    rows = list(store.checked_documents())
    metadata = {row.id: json.loads(row.metadata) for row in rows if row.metadata is not None}
    if rows:
        put_texts(other, {row.id: row.text or "" for row in rows}, metadata=metadata)
    other.commit()
    return other


def same(found: dict[str, float], right: dict[str, float]) -> None:
    """The same documents with the same scores. FTS5 leaves out frequent words where others suffice: 1e-6 each."""
    assert list(found.values()) == pytest.approx(list(right.values()), abs=1e-4)
    last = min(right.values(), default=0.0) + 1e-4
    assert {id_ for id_, score in found.items() if score > last} == {
        id_ for id_, score in right.items() if score > last
    }
    assert list(found) == [id_ for id_, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def history(store: LanceStore, seed: int, steps: int = 12) -> None:
    """Adds, changes, deletes and compactions: rows that are indexed, that are not yet, and that are no more."""
    random = Random(seed)
    for _ in range(steps):
        kind = random.choices(["put", "delete", "compact"], [8, 3, 2])[0]
        if kind == "put":
            texts = {f"d{random.randrange(60)}": text_of(random) for _ in range(random.randint(1, 10))}
            put_texts(store, texts, metadata={id_: {"n": int(id_[1:]) % 3} for id_ in texts})  # type: ignore[arg-type]
        elif kind == "delete":
            there = sorted(store.ids())
            store.delete(random.sample(there, min(len(there), 4)))
        else:
            store.commit()
            store.compact()
        if random.random() < 0.6:
            store.commit()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("first_rows", "new_rows"), [(0, 5), (0, 10_000), (1000, 5)])
def test_after_any_history_it_answers_as_the_other_engine(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, first_rows: int, new_rows: int
) -> None:
    monkeypatch.setattr(lance_words, "FIRST_ROWS", first_rows)  # 0: rare words alone at first
    monkeypatch.setattr(lance_upkeep, "NEW_ROWS", new_rows)  # 5: indexed by commits, else by compaction alone
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        history(store, seed)
        for uncommitted in (True, False):  # a writer finds what it has not committed
            if not uncommitted:
                store.commit()
            right = as_sqlite(store, tmp_path)
            for top_k in (1, 3, 100):
                for query in QUERIES:
                    same(store.search_words(query, top_k), right.search_words(query, top_k))
                    where = Where({"n": [0, 2]})
                    same(store.search_words(query, top_k, where), right.search_words(query, top_k, where))
                vector = torch.linspace(-1, 1, 8)
                found, wanted = store.search_vectors(vector, top_k), right.search_vectors(vector, top_k)
                assert found == pytest.approx(wanted, abs=1e-6)
                assert store.search_vectors(vector, top_k, Where({"n": 1})) == pytest.approx(
                    right.search_vectors(vector, top_k, Where({"n": 1})), abs=1e-6
                )
            right.close()
        assert store.verify().problems == []


def test_scores_are_bm25_by_hand(store: LanceStore) -> None:
    put_texts(store, {"a": "red red fox", "b": "red dog", "c": "blue dog dog dog dog", "d": "cat"})  # type: ignore[arg-type]
    store.commit()
    mean = 11 / 4

    def score(documents: int, times: int, words: int) -> float:
        return (
            math.log((4 - documents + 0.5) / (documents + 0.5))
            * times
            * 2.2
            / (times + 1.2 * (0.25 + 0.75 * words / mean))
        )

    found = store.search_words("fox blue", 5)
    assert found == pytest.approx({"a": score(1, 1, 3), "c": score(1, 1, 5)})
    assert list(found) == ["a", "c"]
    assert store.search_words("red", 1)["a"] == pytest.approx(1e-6 * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean)))


@pytest.mark.parametrize("indexed", [True, False])
def test_words_of_other_languages_and_signs_find_what_they_should(path: Path, tmp_path: Path, indexed: bool) -> None:
    queries = {
        "दिल्ली": "hi", "दिल": "hi2", "北京大学": "zh", "上海": "zh2", "東京タワー": "ja", "தமிழ்": "ta", "C++": "cpp", "c#": "csharp",
        "C": "c", "don't": "dont", "state-of-the-art": "dont", "3.5": "version", "москва": "ru", "it's 'quoted'": None,
        "MOSKAU straße": None, "'; DROP": None, '"москва" AND NOT*': "ru",
    }  # fmt: skip
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        put_texts(store, LANGUAGES)  # type: ignore[arg-type]
        store.commit()
        if indexed:
            store.compact()
        right = as_sqlite(store, tmp_path)
        for query, first in queries.items():
            found = store.search_words(query, 20)
            assert next(iter(found), None) == first, query
            same(found, right.search_words(query, 20))
        for query in ("", "   ", "?!", "\0", "*", "👍"):
            assert store.search_words(query, 5) == {}
        right.close()
        put_texts(store, {"cafe": "Café Straße", "nul": "zero\0byte", "empty": ""})  # type: ignore[arg-type]
        store.commit()
        assert list(store.search_words("cafe", 3)) == list(store.search_words("STRASSE", 3)) == ["cafe"]
        assert list(store.search_words("byte", 3)) == ["nul"]


def test_trigrams_answer_as_the_other_engine(path: Path, tmp_path: Path) -> None:
    settings = StoreSettings(tokenizer="trigram")
    with LanceStore(path, FINGERPRINT, read_only=False, settings=settings) as store:
        put_texts(store, LANGUAGES | {"thai": "ฉันอยู่ที่กรุงเทพมหานคร", "rep": "aaaaaa compile compile"})  # type: ignore[arg-type]
        store.commit()
        right = as_sqlite(store, tmp_path, "trigram")
        for query in ("กรุงเทพ", "ompile", "aaa", "COMPILER one", "दिल्ली", "ompxle", "C"):
            same(store.search_words(query, 10), right.search_words(query, 10))
        right.close()
        store.rebuild_first_stage("unicode61")
        assert list(store.search_words("C", 5)) == ["c"]
        with LanceStore(path, None, read_only=True) as reader:
            assert reader.settings.tokenizer == "unicode61"
            assert list(reader.search_words("C", 5)) == ["c"]
        assert store.verify().ok
        with pytest.raises(ValueError, match="tokenizer: must be one of"):
            store.rebuild_first_stage("porter")


def test_equal_scores_come_by_id_and_rows_that_are_not_indexed_count(store: LanceStore) -> None:
    ids = Random(3).sample(range(60), 60)
    for part in (ids[:30], ids[30:50], ids[50:]):
        put_texts(store, {f"d{number:02}": "same text" for number in part})  # type: ignore[arg-type]
        store.commit()
        if part == ids[:30]:
            store.compact()
    for top_k in (1, 7, 60):
        wanted = [f"d{number:02}" for number in range(60)][:top_k]
        assert list(store.search_words("same", top_k)) == list(store.search_vectors(torch.ones(8), top_k)) == wanted
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        store.search_words("same", 0)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        store.search_vectors(torch.ones(8), 0)


def test_many_new_rows_are_indexed_by_the_commit_and_a_failure_of_that_loses_none(
    path: Path, store: LanceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lance_upkeep, "NEW_ROWS", 10)

    def indexed() -> set[int]:
        return {index.num_rows_indexed for index in lance.dataset(str(path)).describe_indices()}

    for number, wanted in ((0, set()), (1, {16}), (2, {16}), (3, {32})):
        put_texts(store, {f"d{number}-{row}": "some text" for row in range(8)})  # type: ignore[arg-type]
        store.commit()
        assert indexed() == wanted

    def fails(_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(lance_upkeep, "_index", fails)
    put_texts(store, {f"more{row}": "some text" for row in range(20)})  # type: ignore[arg-type]
    store.commit()
    assert "found more slowly" in caplog.text
    assert len(store.search_words("text", 100)) == 52


def test_vectors_are_exact_with_deletes_and_filters(store: LanceStore) -> None:
    """Recall is 1 after deletes near the query and with a filter that admits few: a full answer alone says nothing."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2000, 8, generator=generator)
    query = torch.randn(8, generator=generator)
    ids = [f"d{number}" for number in range(2000)]
    for half in (slice(0, 1000), slice(1000, 2000)):
        store.put(
            ids[half],
            [made(id_, 1, 2) for id_ in ids[half]],  # type: ignore[misc]
            ["h"] * 1000,
            texts=["t"] * 1000,
            pooled=vectors[half],
            metadata=[{"part": number % 100} for number in range(2000)][half],
        )
        store.commit()
    store.compact()
    order = F.cosine_similarity(vectors.double(), query[None].double(), dim=-1).argsort(descending=True).tolist()
    assert list(store.search_vectors(query, 10)) == [ids[place] for place in order[:10]]
    store.delete([ids[place] for place in order[:400]])
    assert list(store.search_vectors(query, 10)) == [ids[place] for place in order[400:410]]
    store.commit()
    found = store.search_vectors(query, 10)
    assert list(found) == [ids[place] for place in order[400:410]]
    few = [place for place in order[400:] if place % 100 == 7]
    assert list(store.search_vectors(query, 50, Where({"part": 7}))) == [ids[place] for place in few][:50]
    assert store.search_vectors(query, 50, Where({"part": "7"})) == {}
    with pytest.raises(ValueError, match=r"\(9,\) for a store whose vectors have 8"):
        store.search_vectors(torch.ones(9), 3)
    with pytest.raises(ValueError, match="'x': pooled vector of 9 values, others have 8"):
        store.put(["x"], [made("x", 1)], ["h"], pooled=torch.ones(1, 9))  # type: ignore[list-item]
    assert "x" not in store.search_vectors(query, 2000)


def test_a_search_reads_the_vectors_that_came_since_the_one_before(
    path: Path, store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = VectorCache._read

    def counted(self: VectorCache, fragment: Any, live: Any) -> Any:
        read.append(len(live))
        return real(self, fragment, live)

    monkeypatch.setattr(VectorCache, "_read", counted)
    put_texts(store, {f"d{number}": f"text {number}" for number in range(50)})  # type: ignore[arg-type]
    store.commit()
    with LanceStore(path, None, read_only=True) as reader:
        for change, wanted in (("nothing", [50]), ("nothing", [50]), ("add", [50, 3]), ("delete", [50, 3])):
            if change == "add":
                put_texts(store, {f"new{number}": "text" for number in range(3)})  # type: ignore[arg-type]
            elif change == "delete":
                store.delete(["d3", "new1"])
            store.commit()
            assert reader.search_vectors(torch.ones(8), 100).keys() == set(store.ids())
            assert read == wanted
        old = lance.dataset(str(path), version=2)
        assert sum(len(block.addresses) for block in reader._vectors.blocks(old)) == 50, "an older version has its rows"


def test_documents_without_text_or_vector_are_named(store: LanceStore, path: Path) -> None:
    put_texts(store, {"a": "text"}, vectors=False)  # type: ignore[arg-type]
    for _ in range(2):
        assert list(store.search_words("text", 3)) == ["a"]
        with pytest.raises(StoreError, match="'a' was put without a pooled vector"):
            store.search_vectors(torch.ones(8), 3)
        store.commit()
    store.put(["b"], [made("b", 1)], ["h"])  # type: ignore[list-item]
    for _ in range(2):
        with pytest.raises(StoreError, match=r"store\.lance: document 'b' was put without its text"):
            store.search_words("text", 3)
        store.commit()
    with LanceStore(path.with_name("empty.lance"), FINGERPRINT, read_only=False) as empty:
        assert empty.search_words("text", 3) == empty.search_vectors(torch.ones(8), 3) == {}
        assert empty.compact().bytes_after > 0
        assert empty.verify().ok


def test_metadata_is_kept_changed_and_checked(store: LanceStore) -> None:
    put_texts(store, {"a": "text", "b": "text"}, metadata={"a": {"lang": "de", "tags": ["x"]}})  # type: ignore[arg-type]
    for _ in range(2):
        assert store.metadata(["b", "a"]) == [None, {"lang": "de", "tags": ["x"]}]
        store.commit()
    assert store.set_metadata(["a", "b"], [{"lang": "de", "tags": ["x"]}, {"lang": "en"}]) == 1
    for _ in range(2):
        assert store.metadata(["a", "b"])[1] == {"lang": "en"}
        assert list(store.search_words("text", 5, Where({"lang": "en"}))) == ["b"]
        assert list(store.search_vectors(torch.ones(8), 5, Where({"lang": "en"}))) == ["b"]
        assert store.verify().ok
        assert len(store) == 2
        store.commit()
    assert store.set_metadata(["b"], [None]) == 1
    store.commit()
    assert store.metadata(["b"]) == [None]


def test_words_that_do_not_fit_the_texts_are_found_by_verify(path: Path, store: LanceStore) -> None:
    put_texts(store, {"a": "berlin", "b": "paris"})  # type: ignore[arg-type]
    store.commit()
    lance.dataset(str(path)).update({"words": "['rome']"}, where="id = 'a'")
    (problem,) = store.verify().problems
    assert "'a': its words are not those of its text" in problem
    store.rebuild_first_stage()
    assert store.verify().ok
    assert list(store.search_words("berlin", 3)) == ["a"]
    lance.dataset(str(path)).update({"metadata": "'{}'"}, where="id = 'b'")
    with pytest.raises(StoreCorruptError, match="'b': its text, metadata"):
        store.metadata(["b"])
    assert [(document.id, document.text) for document in store.damaged()] == [("b", None)]


# Copies and other models


def test_a_backup_is_a_store_of_its_own(path: Path, tmp_path: Path, store: LanceStore) -> None:
    put(store, {"a": 1, "b": 2})
    store.commit()
    put(store, {"c": 3})
    copy = tmp_path / "copy.lance"
    store.backup(str(copy))
    with LanceStore(copy, FINGERPRINT, read_only=False) as opened:
        assert contents(opened) == {"a": 1, "b": 2}
        assert opened.verify().ok
        assert list(opened.search_words("text b", 1)) == ["b"]
        opened.delete(["a"])
    store.commit()
    assert contents(store) == {"a": 1, "b": 2, "c": 3}
    assert not list(tmp_path.glob("*.next"))
    with pytest.raises(FileExistsError, match=r"copy\.lance"):
        store.backup(str(copy))
    (tmp_path / "folder.lance").mkdir()
    with pytest.raises(FileExistsError, match=r"folder\.lance"):
        store.backup(str(tmp_path / "folder.lance"))


def move_on(migration: Any, limit: int) -> list[str]:
    """New states, 8 wide, for some documents."""
    rows = migration.pending(limit)
    documents = []
    for row in rows:
        document = made(row.id, int(row.text.split()[-1]), 5)
        document.states = document.states[:, :8].contiguous()
        documents.append(document)
    if rows:
        pooled = torch.stack([document.states.mean(0) for document in documents])
        migration.put(rows, documents, [f"new {row.content_hash}" for row in rows], pooled)
    return [row.id for row in rows]


def test_a_store_in_use_moves_to_another_model_in_one_commit(path: Path, store: LanceStore) -> None:
    settings = StoreSettings(model="another", tokenizer="trigram")
    put(store, {f"d{number}": 1 for number in range(10)}, mean_tokens=5)
    store.set_metadata(["d1"], [{"n": 1}])
    with pytest.raises(StoreError, match="commit before a migration"):
        store.begin_migration(MOVED, settings)
    store.commit()
    reader = LanceStore(path, FINGERPRINT, read_only=True)
    other = LanceStore(path, FINGERPRINT, read_only=False)
    migration = store.begin_migration(MOVED, settings)
    assert not migration.finish()
    done = move_on(migration, 4)
    assert len(done) == 4
    waiting = migration.pending(2)  # changed before their states are kept
    put(other, {waiting[0].id: 2, "new": 1, done[0]: 2}, mean_tokens=5)
    other.delete([waiting[1].id, done[1]])
    other.set_metadata([done[2]], [{"n": 2}])
    other.commit()

    again = store.begin_migration(MOVED, settings)  # as after a kill
    seen = []
    while found := move_on(again, 3):
        seen += found
        assert versions_of(reader.get(["new"]), ["new"], 5) == {"new": 1}, "old states answer"
    assert done[2] not in seen, "what was kept stays"
    assert done[0] in seen, "what has changed does not"
    put(other, {"late": 1}, mean_tokens=5)
    other.commit()
    assert not again.finish(), "a document is pending"
    assert move_on(again, 3) == ["late"]
    put(other, {"later": 1}, mean_tokens=5)
    assert again.finish()
    assert store.fingerprint == MOVED
    assert store.settings == settings
    assert sorted(store.ids()) == sorted({*(f"d{n}" for n in range(10)), "new", "late"} - {done[1], waiting[1].id})
    assert store.verify().ok
    assert store.metadata([done[2]]) == [{"n": 2}]
    right = made(done[0], 2, 5)
    assert torch.equal(store.get([done[0]]).decode(0, len(right.input_ids)), right.states[:, :8])
    assert list(store.search_words("new", 5)) == ["new"]
    assert len(store.search_vectors(torch.ones(8), 50)) == len(store)
    assert store.stale([done[0]], ["new 2"]) == []
    assert not path.with_name("store.lance.next").exists()
    for use in (lambda: reader.get(["new"]), other.commit, lambda: reader.search_words("text", 3)):
        with pytest.raises(StoreMovedError, match=r"another model, another; open it anew"):
            use()
    reader.close()
    other.close()
    with pytest.raises(StoreMismatchError, match="another model"):
        open_store(path, FINGERPRINT, read_only=True)


def test_states_of_documents_that_changed_meanwhile_are_dropped(store: LanceStore) -> None:
    put(store, {"a": 1, "b": 1}, mean_tokens=5)
    store.commit()
    migration = store.begin_migration(MOVED, StoreSettings())
    rows = migration.pending(5)
    put(store, {"a": 2}, mean_tokens=5)
    store.delete(["b"])
    store.commit()
    old = [made(row.id, 1, 5) for row in rows]
    for document in old:
        document.states = document.states[:, :8].contiguous()
    migration.put(rows, old, ["h", "h"], None)  # type: ignore[arg-type]
    assert not migration.finish()
    assert move_on(migration, 5) == ["a"]
    assert migration.finish()
    assert list(store.ids()) == ["a"]
    assert store.stale(["a"], ["new 2"]) == []


def test_a_migration_can_be_abandoned_or_begun_for_another_model(path: Path, store: LanceStore) -> None:
    put(store, {"a": 1}, mean_tokens=5)
    store.commit()
    migration = store.begin_migration(MOVED, StoreSettings())
    move_on(migration, 1)
    another = store.begin_migration(replace(MOVED, layer=5), StoreSettings())
    assert len(another.pending(5)) == 1
    another.abandon()
    assert not path.with_name("store.lance.next").exists()
    store.abandon_migration()
    assert contents_5(store) == {"a": 1}
    store.put(["b"], [made("b", 1)], ["h"])  # type: ignore[list-item]
    store.commit()
    with pytest.raises(StoreError, match="'b' was put without its text"):
        store.begin_migration(MOVED, StoreSettings())


def contents_5(store: LanceStore) -> dict[str, int]:
    ids = list(store.ids())
    return versions_of(store.get(ids), ids, 5)


# Stores of version 1


def as_version_1(path: Path, versions: dict[str, int]) -> None:
    """A store as version 1 wrote it, by the rules of version 1: no metadata, no settings, and CRCs without them."""
    line = json.dumps(json.loads(FINGERPRINT.to_json()) | {"format_version": 1}, sort_keys=True)
    seed = zlib.crc32(line.encode())
    rows = []
    for id_, version in versions.items():
        document = made(id_, version)
        n_tokens, text = len(document.input_ids), f"text of {id_} {version}"
        row: dict[str, Any] = {"id": id_, "content_hash": str(version), "n_tokens": n_tokens, "text": text}
        row["input_ids"], row["scales"] = document.input_ids.numpy().astype("<i4").tobytes(), b""
        row["payload"] = document.states.numpy().tobytes()
        row["pooled"] = b"f" + document.states.mean(0).numpy().tobytes()
        start = zlib.crc32(f"{id_}\0{version}\0{n_tokens}".encode(), seed)
        row["crc"] = zlib.crc32(row["payload"], zlib.crc32(row["input_ids"], start))
        sizes = f"{len(text)}\0{len(row['pooled'])}"
        start = zlib.crc32(f"{id_}\0{version}\0{n_tokens}\0{sizes}".encode(), seed)
        row["document_crc"] = zlib.crc32(row["pooled"], zlib.crc32(text.encode(), start))
        rows.append(row)
    binary = ["input_ids", "scales", "payload"]
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("id", "content_hash")]
    fields += [pa.field("n_tokens", pa.int32(), nullable=False), pa.field("crc", pa.uint32(), nullable=False)]
    fields += [pa.field(name, pa.large_binary(), nullable=False) for name in binary]
    fields += [pa.field("document_crc", pa.uint32(), nullable=False)]
    fields += [pa.field("text", pa.large_string()), pa.field("pooled", pa.large_binary())]
    metadata = {"mice_st.fingerprint": line, "mice_st.crc": str(seed)}
    lance.write_dataset(pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=metadata)), path, mode="append")


def test_a_store_of_version_1_is_upgraded_in_one_commit(path: Path) -> None:
    as_version_1(path, {f"d{number}": number for number in range(1, 300)})
    as_version_1(path, {"d7": 8})  # two rows, which version 1 could leave behind
    with pytest.raises(StoreVersionError, match="run `mice-st store upgrade STORE`"):
        LanceStore(path, None, read_only=True)
    assert upgrade_store(path) == 299
    with LanceStore(path, FINGERPRINT, read_only=False) as store:
        assert contents(store) == {f"d{number}": number for number in range(1, 300)} | {"d7": 8}
        assert store.verify().ok
        assert len(store.search_words("text", 400)) == 299
        assert len(store.search_vectors(made("x", 1).states[0], 400)) == 299
    assert upgrade_store(path) == 299


def test_a_damaged_row_of_version_1_is_named_and_nothing_changes(path: Path) -> None:
    as_version_1(path, {"a": 1, "b": 2})
    lance.dataset(str(path)).update({"text": "'other'"}, where="id = 'b'")
    with pytest.raises(StoreCorruptError, match="'b': its text or pooled vector is damaged"):
        upgrade_store(path)
    with pytest.raises(StoreVersionError):
        LanceStore(path, None, read_only=True)
