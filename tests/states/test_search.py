"""The first stage that a SQLite store keeps: after any history it answers as one made afresh; what FTS5 gets wrong it does not."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from random import Random

import bm25s
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mice_st.states import sqlite_writer
from mice_st.states.errors import StoreCorruptError, StoreError
from mice_st.states.first_stage import find, resolve_first_stage
from mice_st.states.identity import StoreSettings, Tokenizer
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.where import Where
from mice_st.states.words import indexed_text, query_terms
from tests.states.made import FINGERPRINT, made

WORDS = [
    "berlin",
    "people",
    "museum",
    "river",
    "bridge",
    "cat",
    "dog",
    "bird",
    "number",
    "string",
    "function",
    "the",
    "of",
    "in",
    "a",
    "to",
    "and",
    "is",
    "c++",
    "don't",
    "3.5",
]
QUERIES = ["people in berlin", "the of a", "cat dog", "c++ function", "don't", "3.5", "nothing of this", "berlin"]


def text_of(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=random.randint(1, 12)))


def vector_of(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(8, generator=generator) * (1 + seed % 5)).half()


def put_texts(
    store: SqliteStore, texts: dict[str, str], vectors: bool = True, metadata: dict[str, dict] | None = None
) -> None:
    store.put(
        list(texts),
        [made(id_, 1, 3) for id_ in texts],  # type: ignore[misc]  # stand-ins
        [f"hash {text}" for text in texts.values()],
        texts=list(texts.values()),
        pooled=torch.stack([vector_of(hash_of(text)) for text in texts.values()]) if vectors else None,
        metadata=None if metadata is None else [metadata.get(id_) for id_ in texts],
    )


def hash_of(text: str) -> int:
    return sum(ord(character) * (place + 1) for place, character in enumerate(text)) % 9973


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "store.sqlite", FINGERPRINT, read_only=False) as opened:
        yield opened


def history(store: SqliteStore, seed: int, steps: int = 30) -> None:
    """Adds, changes, deletes, rollbacks and compactions."""
    random = Random(seed)
    for _ in range(steps):
        kind = random.choices(["put", "delete", "drop", "compact"], [8, 3, 1, 1])[0]
        if kind in ("put", "drop"):
            put_texts(store, {f"d{random.randrange(60)}": text_of(random) for _ in range(random.randint(1, 10))})
        if kind == "drop":
            store._end(commit=False)
        elif kind == "delete":
            there = sorted(store.ids())
            store.delete(random.sample(there, min(len(there), 4)))
        elif kind == "compact":
            store.commit()
            store.compact()
        if random.random() < 0.6:
            store.commit()
    store.commit()


def check_history(folder: Path, seed: int, monkeypatch_dead: int = 5) -> int:
    """Compare a store with a past with one made afresh; returns how many documents they have."""
    sqlite_writer.DEAD_SLOTS = monkeypatch_dead  # the file of vectors is made anew now and then
    with (
        SqliteStore(folder / f"old{seed}.sqlite", FINGERPRINT, read_only=False) as old,
        SqliteStore(folder / f"new{seed}.sqlite", FINGERPRINT, read_only=False) as new,
        SqliteStore(folder / f"old{seed}.sqlite", FINGERPRINT, read_only=True) as reader,
    ):
        history(old, seed)
        left = dict(old.texts())
        ids = sorted(left)
        Random(seed).shuffle(ids)
        if ids:
            put_texts(new, {id_: left[id_] for id_ in ids})
            new.commit()
        for top_k in (1, 3, 100):
            for query in QUERIES:
                mine, fresh = (store.search_words(query, top_k) for store in (reader, new))
                assert list(mine) == list(fresh), (seed, query, top_k)
                assert np.allclose(list(mine.values()), list(fresh.values()), atol=1e-6), (seed, query)
            mine, fresh = (store.search_vectors(torch.ones(8), top_k) for store in (reader, new))
            assert set(mine) <= set(left)
            assert np.allclose(list(mine.values()), list(fresh.values()), atol=1e-6), seed
        assert reader.verify().problems == []
        return len(left)


@pytest.mark.parametrize("seed", range(8))
def test_scores_after_any_history_are_those_of_a_store_made_afresh(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "DEAD_SLOTS", 5)
    assert check_history(tmp_path, seed) > 0


NEWER = """
import sys
import pysqlite3
sys.modules["sqlite3"] = pysqlite3
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.states.test_search import check_history
print(pysqlite3.sqlite_version, sum(check_history(Path(sys.argv[2]), seed) for seed in range(8)))
"""


def test_a_newer_sqlite_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pysqlite3", reason="there is no pysqlite3-binary for this system")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", NEWER, str(root), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    version, documents = done.stdout.split()
    assert int(documents) > 50
    assert tuple(map(int, version.split("."))) >= (3, 44)


def test_ranking_is_bm25_as_bm25s_computes_robertson_s(store: SqliteStore) -> None:
    random = Random(5)
    texts = {f"d{number:03}": " ".join(random.choices(WORDS[:17], k=random.randint(3, 30))) for number in range(300)}
    rare = [f"rare{number}" for number in range(40)]
    texts = {id_: f"{text} {random.choice(rare)} {random.choice(rare)}" for id_, text in texts.items()}
    put_texts(store, texts)
    store.commit()
    reference = bm25s.BM25(method="robertson", k1=1.2, b=0.75)
    reference.index([text.split() for text in texts.values()], show_progress=False)
    agree = 0.0
    for number in range(40):
        words = [rare[number], rare[(number * 7 + 3) % 40], "cat"]
        scores = dict(zip(texts, reference.get_scores(words), strict=True))
        found = store.search_words(" ".join(words), 10)
        right = sorted((id_ for id_ in scores if scores[id_] > 0), key=lambda id_: (-scores[id_], id_))[:10]
        agree += len(set(found) & set(right)) / max(len(right), 1)
    assert agree / 40 > 0.97


LANGUAGES = {
    "hi": "हिन्दी में लिखा हुआ पाठ दिल्ली के बारे में",
    "hi2": "दिल के बारे में एक कविता",
    "zh": "我住在北京大学附近的一条街上",
    "zh2": "上海的街道很长",
    "ja": "東京タワーの高さを教えてください",
    "ta": "தமிழ் மொழி பழமையானது",
    "c": "a compiler for C in one file",
    "cpp": "templates of C++ are compiled",
    "csharp": "C# runs on dotnet",
    "dont": "we don't know the state-of-the-art",
    "version": "released as 3.5 last year",
    "ru": "Москва столица России",
}


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("दिल्ली", "hi"),  # not found by दिल, the letters before its first vowel sign
        ("दिल", "hi2"),
        ("北京大学", "zh"),
        ("北京", "zh"),
        ("上海", "zh2"),
        ("東京タワー", "ja"),
        ("தமிழ்", "ta"),
        ("C++", "cpp"),
        ("c#", "csharp"),
        ("C", "c"),
        ("don't", "dont"),
        ("state-of-the-art", "dont"),
        ("3.5", "version"),
        ("москва", "ru"),
        ('"quoted" AND NOT (москва) NEAR*', "ru"),
        ("text : москва ^ -столица", "ru"),
    ],
)
def test_words_of_other_languages_and_signs_find_what_they_should(store: SqliteStore, query: str, first: str) -> None:
    put_texts(store, LANGUAGES)
    found = list(store.search_words(query, 5))
    assert found[:1] == [first], found
    if query in ("C++", "c#", "C", "दिल", "दिल्ली"):
        assert found == [first], "and nothing else"


@pytest.mark.parametrize("query", ["", "   ", "?!", "-", '"', "\0", "*", "👍"])
def test_a_query_without_words_says_so(store: SqliteStore, query: str) -> None:
    put_texts(store, LANGUAGES)
    assert store.search_words(query, 5) == {}
    (note,) = find(store, ("bm25",), query, None, 5).notes
    assert "bm25 found nothing: the query" in note
    found = find(store, ("bm25", "vectors"), query, torch.ones(8), 5)
    assert len(found.ids) == 5, "the vectors still answer"
    assert len(found.notes) == 1


def test_trigrams_find_parts_of_words_and_say_what_is_too_short(tmp_path: Path) -> None:
    settings = StoreSettings(tokenizer="trigram")
    with SqliteStore(tmp_path / "tri.sqlite", FINGERPRINT, read_only=False, settings=settings) as store:
        put_texts(store, LANGUAGES | {"thai": "ฉันอยู่ที่กรุงเทพมหานคร"})
        assert list(store.search_words("กรุงเทพ", 5)) == ["thai"]
        assert list(store.search_words("ompile", 5)) in (["c", "cpp"], ["cpp", "c"])
        assert "3 characters" in find(store, ("bm25",), "C", None, 5).notes[0]
        store.commit()
        store.rebuild_first_stage("unicode61")
        assert list(store.search_words("C", 5)) == ["c"]
        assert store.settings.tokenizer == "unicode61"
        with SqliteStore(tmp_path / "tri.sqlite", None, read_only=True) as reader:
            assert list(reader.search_words("C", 5)) == ["c"]
        assert store.verify().ok


def test_equal_scores_come_by_id_whatever_the_order_of_putting(store: SqliteStore) -> None:
    texts = {f"d{number:02}": "same text" for number in Random(3).sample(range(50), 50)}
    put_texts(store, texts)
    for top_k in (1, 7, 50):
        assert list(store.search_words("same", top_k)) == sorted(texts)[:top_k]
        assert list(store.search_vectors(torch.ones(8), top_k)) == sorted(texts)[:top_k]


def test_words_in_over_half_of_the_documents_are_looked_at_where_others_do_not_suffice(store: SqliteStore) -> None:
    texts = {f"d{number}": "the common words" for number in range(20)} | {"one": "the rare one"}
    put_texts(store, texts)
    assert list(store.search_words("the rare", 1)) == ["one"]
    assert len(store.search_words("the rare", 30)) == 21
    assert next(iter(store.search_words("the rare", 30))) == "one"
    assert len(store.search_words("the", 30)) == 21


def test_vectors_are_exact_with_deletes_and_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall is 1 after deletes near the query and with a filter that admits few: a full answer alone says nothing."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2000, 8, generator=generator)
    query = torch.randn(8, generator=generator)
    ids = [f"d{number}" for number in range(2000)]
    with SqliteStore(tmp_path / "v.sqlite", FINGERPRINT, read_only=False) as store:
        store.put(
            ids,
            [made(id_, 1, 2) for id_ in ids],  # type: ignore[misc]
            ["h"] * 2000,
            texts=["t"] * 2000,
            pooled=vectors,
            metadata=[{"part": number % 100} for number in range(2000)],
        )
        store.commit()
        cosines = F.cosine_similarity(vectors.double(), query[None].double(), dim=-1)
        order = cosines.argsort(descending=True).tolist()
        store.delete([ids[place] for place in order[:400]])
        store.commit()
        found = store.search_vectors(query, 10)
        assert list(found) == [ids[place] for place in order[400:410]]
        assert list(found.values()) == pytest.approx([float(cosines[place]) for place in order[400:410]], abs=1e-6)
        few = [place for place in order[400:] if place % 100 == 7]
        assert list(store.search_vectors(query, 50, Where({"part": 7}))) == [ids[place] for place in few][:50]
        assert store.search_vectors(query * 1000, 10) == pytest.approx(found, abs=1e-6)
        assert store.search_vectors(torch.zeros(8), 1) != {}
        with pytest.raises(ValueError, match=r"\(9,\) for a store whose vectors have 8"):
            store.search_vectors(torch.ones(9), 3)


def test_documents_without_text_or_vector_are_named(store: SqliteStore) -> None:
    put_texts(store, {"a": "text"}, vectors=False)
    assert list(store.search_words("text", 3)) == ["a"]
    with pytest.raises(StoreError, match="'a' was put without a pooled vector"):
        store.search_vectors(torch.ones(8), 3)
    store.put(["b"], [made("b", 1)], ["h"])  # type: ignore[list-item]
    with pytest.raises(StoreError, match="'b' was put without its text"):
        store.search_words("text", 3)


# Where


METADATA = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["lang", "year", "ok", "sub key"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-3, 3),
            st.sampled_from([0.5, 1.0, 2.5]),
            st.sampled_from(["de", "en", "1", ""]),
            st.lists(st.integers(0, 2), max_size=2),
        ),
        max_size=4,
    ),
)
BOUNDS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0]), st.sampled_from(["de", "1", ""]))
SCALARS = st.one_of(BOUNDS, st.booleans(), st.none())
CONDITIONS = st.dictionaries(
    st.sampled_from(["lang", "year", "ok", "sub key", "absent"]),
    st.one_of(
        SCALARS,
        st.lists(SCALARS, max_size=3),
        st.dictionaries(st.sampled_from(["<", "<=", ">", ">="]), BOUNDS, min_size=1, max_size=2),
        st.fixed_dictionaries({"!=": SCALARS}),
        st.fixed_dictionaries({"exists": st.booleans()}),
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(METADATA, min_size=1, max_size=8), conditions=CONDITIONS)
def test_sqlite_filters_as_the_plain_predicate_does(rows: list[dict | None], conditions: dict) -> None:
    import json
    import sqlite3

    where = Where(conditions)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE m (key INTEGER PRIMARY KEY, value TEXT)")
    connection.executemany(
        "INSERT INTO m VALUES (?, ?)", [(key, None if row is None else json.dumps(row)) for key, row in enumerate(rows)]
    )
    condition, parameters = where.sql("m.value")
    found = {key for (key,) in connection.execute(f"SELECT key FROM m WHERE {condition}", parameters)}
    connection.close()
    assert found == {key for key, row in enumerate(rows) if where.matches(row)}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([("a", 1)], "expected a dictionary"),
        ({"year": {"~": 3}}, "'year' has the operator '~'"),
        ({"year": {}}, "'year' has no condition"),
        ({"year": {">=": None}}, "'>=' wants a number or a string"),
        ({"year": {"in": "de"}}, "'in' wants a list"),
        ({"year": object()}, "compared with object"),
        ({"year": float("nan")}, "compared with nan"),
        ({"year": 2**70}, "beyond 64 bits"),
        ({'a"b': 1}, "a key must be"),
        ({"x": {"exists": 1}}, "'exists' wants True or False"),
    ],
)
def test_impossible_filters_name_their_key(conditions: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Where(conditions)


def test_a_filter_holds_before_the_first_stage(store: SqliteStore) -> None:
    texts = {f"d{number}": "berlin berlin" if number < 90 else "berlin and much else" for number in range(100)}
    put_texts(store, texts, metadata={f"d{number}": {"year": 2000 + number, "lang": "de"} for number in range(100)})
    where = Where({"lang": "de", "year": {">=": 2095}})
    admitted = {f"d{number}" for number in range(95, 100)}
    assert set(store.search_words("berlin", 10, where)) == admitted, "though 90 others are better"
    assert set(store.search_vectors(torch.ones(8), 10, where)) == admitted
    nothing = find(store, ("bm25", "vectors"), "berlin", torch.ones(8), 5, Where({"lang": "fr"}))
    assert nothing.ids == []
    assert len(nothing.notes) == 2
    assert "satisfies the filter" in nothing.notes[0]


def test_metadata_is_kept_changed_and_checked(store: SqliteStore, tmp_path: Path) -> None:
    put_texts(store, {"a": "text", "b": "text"}, metadata={"a": {"lang": "de", "tags": ["x"]}})
    store.commit()
    assert store.metadata(["b", "a"]) == [None, {"lang": "de", "tags": ["x"]}]
    assert store.set_metadata(["a", "b"], [{"lang": "de", "tags": ["x"]}, {"lang": "en"}]) == 1
    store.commit()
    assert store.metadata(["a", "b"])[1] == {"lang": "en"}
    assert list(store.search_words("text", 5, Where({"lang": "en"}))) == ["b"]
    assert store.verify().ok
    with pytest.raises(ValueError, match="'a': its metadata cannot be written as JSON"):
        store.set_metadata(["a"], [{"x": float("nan")}])
    with pytest.raises(ValueError, match="'c': metadata must be a dictionary"):
        store.put(["c"], [made("c", 1)], ["h"], metadata=[["x"]])  # type: ignore[list-item]
    with store._transaction() as writer:
        writer.execute("UPDATE metadata SET value = replace(value, 'en', 'fr')")
    store.commit()
    with pytest.raises(StoreCorruptError, match="'b': its text, metadata"):
        store.metadata(["b"])


# What is kept in memory and beside the file


def test_stages_have_names_lists_and_aliases() -> None:
    assert resolve_first_stage(None, True) == ("bm25", "vectors")
    assert resolve_first_stage(None, False) == ("bm25",)
    assert resolve_first_stage("pooled", True) == ("vectors",)
    assert resolve_first_stage("both", True) == resolve_first_stage(["bm25", "vectors", "bm25"], True)
    with pytest.raises(ValueError, match="must be one of bm25, vectors, pooled, both, got 'dense'"):
        resolve_first_stage("dense", True)
    with pytest.raises(ValueError, match="is empty"):
        resolve_first_stage([], True)
    with pytest.raises(ValueError, match="needs a model with the pooled residual"):
        resolve_first_stage("vectors", False)


def test_a_lost_file_of_vectors_is_read_from_the_rows_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store.sqlite"
    with SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put_texts(store, {f"d{number}": f"text {number}" for number in range(20)})
    with SqliteStore(path, None, read_only=True) as store:
        right = store.search_vectors(torch.ones(8), 5)
    for file in tmp_path.glob("*-vectors-*"):
        file.unlink()
    with SqliteStore(path, None, read_only=True) as store:
        assert store.search_vectors(torch.ones(8), 5) == pytest.approx(right)
        assert "makes it anew" in caplog.text
        assert "makes it anew" in store.verify().problems[0]
    with SqliteStore(path, None, read_only=False) as store:
        put_texts(store, {"new": "text"})  # the next writer makes it
        store.commit()
        assert store.verify().ok
        assert "new" in store.search_vectors(torch.ones(8), 50)


def test_a_reader_of_an_older_commit_misses_no_file_of_vectors(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its file is removed by whoever compacts, perhaps before it was mapped."""
    put_texts(store, {f"d{number}": f"text {number}" for number in range(20)})
    store.commit()
    with SqliteStore(store.path, None, read_only=True) as reader:
        right = store.search_vectors(torch.ones(8), 5)
        with reader.reading():
            assert len(reader) == 20  # from here on it reads this commit
            store.delete(list(right))
            store.commit()
            store.compact()
            assert reader.search_vectors(torch.ones(8), 5) == pytest.approx(right)
            assert reader.verify().problems == []
        assert not set(reader.search_vectors(torch.ones(8), 15)) & set(right)
    assert "makes it anew" not in caplog.text


@pytest.mark.parametrize("field", ["key", "norm", "vector"])
def test_a_damaged_file_of_vectors_is_an_error_or_found_by_verify(tmp_path: Path, field: str) -> None:
    path = tmp_path / "store.sqlite"
    with SqliteStore(path, FINGERPRINT, read_only=False) as store:
        put_texts(store, {f"d{number}": f"text {number}" for number in range(20)})
    (file,) = tmp_path.glob("*-vectors-*")
    slots = np.fromfile(file, dtype=np.dtype([("key", "<i8"), ("norm", "<f4"), ("vector", "<f2", (8,))])).copy()
    slots[field][3] = 10**9 if field == "key" else np.nan
    slots.tofile(file)
    with SqliteStore(path, None, read_only=True) as store:
        with pytest.raises(StoreCorruptError, match="does not fit the store"):
            store.search_vectors(torch.ones(8), 30)
        assert "differs" in store.verify().problems[0] or "other documents" in store.verify().problems[0]
    with SqliteStore(path, None, read_only=False) as store:
        store.rebuild_first_stage()
        assert store.verify().ok
        assert len(store.search_vectors(torch.ones(8), 30)) == 20


def test_words_that_do_not_fit_the_texts_are_found_by_verify(store: SqliteStore) -> None:
    put_texts(store, {"a": "berlin", "b": "paris"})
    store.commit()
    with store._transaction() as writer:
        writer.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', 1, 'berlin')")
    store.commit()
    (problem,) = store.verify().problems
    assert "full-text index does not fit" in problem
    store.rebuild_first_stage()
    assert store.verify().ok


@pytest.mark.parametrize("tokenizer", ["unicode61", "trigram"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_found_by_itself_or_has_no_terms(tokenizer: Tokenizer, text: str) -> None:
    import sqlite3

    from mice_st.states.sqlite_files import words_schema
    from mice_st.states.words import quoted

    # Characters that Unicode has not assigned are letters to some tables, and none to others.
    assume(not any(unicodedata.category(character) in ("Cn", "Cs") for character in text))
    terms = query_terms(text, tokenizer)
    connection = sqlite3.connect(":memory:")
    connection.executescript(words_schema(tokenizer))
    connection.execute("INSERT INTO words (rowid, text) VALUES (1, ?)", (indexed_text(text, tokenizer),))
    expression = " OR ".join(map(quoted, terms))
    found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,)).fetchall() if terms else []
    connection.close()
    # Letters that are younger than SQLite's tables are none to it.
    assert found or not any(character.isascii() and character.isalnum() for term in terms for character in term)
