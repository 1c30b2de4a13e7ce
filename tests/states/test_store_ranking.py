"""Ranking over a store: the scores of the texts, candidates from the store itself, long documents by their best passage."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.data.collection import Document
from mice_st.states import ranking
from mice_st.states.encoding import encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.errors import StoreCorruptError, StoreError, StoreMismatchError, UnknownDocumentError
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.first_stage import find, fuse
from mice_st.states.passages import tokenize_documents
from mice_st.states.sqlite_store import SqliteStore
from tests.text_pairs import rank_alike

WORDS = [
    "museum",
    "river",
    "bridge",
    "population",
    "berlin",
    "people",
    "cat",
    "dog",
    "bird",
    "number",
    "string",
    "function",
]
QUERY = "how many people live in berlin"


def text_of(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 5 + place * (1 + number % 7)) % len(WORDS)] for place in range(words))


CORPUS = [Document(f"d{number}", text_of(number, 1 + number % 9)) for number in range(40)]
IDS = [document.id for document in CORPUS]
TEXTS = {document.id: document.text for document in CORPUS}


def make_store(mice: MiceCrossEncoder, path: Path, codec: str, **how: bool | int) -> Path:
    with SqliteStore(path, fingerprint_of(mice, codec), read_only=False) as store:
        encode_corpus(mice, CORPUS, store, **how)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def store_path(mice: MiceCrossEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(mice, tmp_path_factory.mktemp("store") / "fp32.sqlite", "fp32")


@pytest.fixture
def store(store_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(store_path, None, read_only=True) as store:
        yield store


def scores_of(ranked: list[dict]) -> dict:
    return {entry["corpus_id"]: entry["score"] for entry in ranked}


def order_of(ranked: list[dict]) -> list:
    return [entry["corpus_id"] for entry in ranked]


@pytest.mark.parametrize("read_documents", [7, 128])
def test_store_memory_and_texts_rank_alike(
    read_documents: int, mice: MiceCrossEncoder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "READ_DOCUMENTS", read_documents)
    texts = mice.rank(QUERY, list(TEXTS.values()))
    memory = mice.rank(QUERY, mice.encode_documents(list(TEXTS.values())))
    stored = mice.rank(QUERY, store=store, ids=IDS, return_documents=True)
    rank_alike(memory, texts, tolerance=1e-5)
    rank_alike(stored, [entry | {"corpus_id": IDS[entry["corpus_id"]]} for entry in texts], tolerance=1e-5)
    for entry in stored:
        assert isinstance(entry["score"], float)
        assert entry["text"] == TEXTS[entry["corpus_id"]]


@pytest.mark.parametrize(("codec", "close"), [("fp16", 5e-3), ("int8", 5e-2)])
def test_half_the_bytes_give_scores_close_by(codec: str, close: float, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    right = scores_of(mice.rank(QUERY, list(TEXTS.values())))
    with open_store(make_store(mice, tmp_path / "small.sqlite", codec), None, read_only=True) as store:
        stored = scores_of(mice.rank(QUERY, store=store, ids=IDS))
    assert [stored[id_] for id_ in IDS] == pytest.approx([right[place] for place in range(len(IDS))], abs=close)


def test_a_model_without_the_pooled_residual_ranks_and_searches_by_bm25(mice_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pooled_residual": False}))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("pooled_residual_log_scale")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    plain = MiceCrossEncoder(str(folder), device="cpu")
    with open_store(make_store(plain, tmp_path / "plain.sqlite", "fp32"), None, read_only=True) as store:
        with pytest.raises(StoreError, match="put without a pooled vector"):
            store.pooled()
        found = mice_ids(plain.rank(QUERY, store=store))
        assert found == {id_ for id_, text in TEXTS.items() if set(text.split()) & set(QUERY.split())}
        with pytest.raises(ValueError, match="'vectors' needs a model with the pooled residual"):
            plain.rank(QUERY, store=store, first_stage="pooled")


def mice_ids(ranked: list[dict]) -> set[str]:
    return set(order_of(ranked))


def test_top_k_activation_prompt_and_repeated_ids(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    whole = mice.rank(QUERY, store=store, ids=IDS)
    assert mice.rank(QUERY, store=store, ids=IDS, top_k=3) == whole[:3]
    assert mice.rank(QUERY, store=store, ids=[]) == []
    twice = mice.rank(QUERY, store=store, ids=["d1", "d2", "d1"])
    assert sorted(order_of(twice)) == ["d1", "d1", "d2"]
    squashed = mice.rank(QUERY, store=store, ids=IDS, activation_fn=torch.nn.Sigmoid())
    expected = torch.tensor([entry["score"] for entry in whole]).sigmoid().tolist()
    assert [entry["score"] for entry in squashed] == pytest.approx(expected, abs=1e-6)
    prompted = scores_of(mice.rank("berlin", store=store, ids=IDS, prompt="museum "))
    spelled = scores_of(mice.rank("museum berlin", store=store, ids=IDS))
    assert prompted == pytest.approx(spelled, abs=1e-6)


# The first stage


def pooled_by_hand(mice: MiceCrossEncoder, query: str) -> list[str]:
    """Every document's cosine with the query, from states encoded here."""
    vector = mice.encode_documents([query])[0].states.mean(0)
    cosines = {
        d.id: float(F.cosine_similarity(mice.encode_documents([d.text])[0].states.mean(0), vector, dim=0))
        for d in CORPUS
    }
    return sorted(cosines, key=lambda id_: -cosines[id_])


def test_what_bm25_finds_is_ranked(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    """The words' own scores are compared with bm25s' in test_search.py."""
    for candidates in (5, 100):
        found = store.search_words(QUERY, candidates)
        ranked = mice.rank(QUERY, store=store, first_stage="bm25", candidates=candidates)
        assert ranked == mice.rank(QUERY, store=store, ids=list(found))


def test_pooled_search_is_exact(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    query = "cat and dog"
    found = mice_ids(mice.rank(query, store=store, first_stage="pooled", candidates=10))
    by_hand = pooled_by_hand(mice, query)
    # Pooled vectors are stored in float16: documents at the cut may change places.
    assert set(by_hand[:9]) <= found <= set(by_hand[:11])
    ids, vectors = store.pooled()
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    cosines = F.cosine_similarity(vectors.float(), vector[None], dim=-1).tolist()
    order = sorted(range(len(ids)), key=lambda place: (-round(cosines[place], 6), ids[place]))
    scores = store.search_vectors(vector, 40)
    assert list(scores.values()) == pytest.approx([cosines[place] for place in order], abs=1e-5)
    assert {id_: scores[id_] for id_ in ids} == pytest.approx(dict(zip(ids, cosines, strict=True)), abs=1e-5)


def test_both_are_fused_by_reciprocal_rank(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    assert fuse([{"a": 9.0, "b": 8.0}, {"c": 0.3, "b": 0.2}], 5) == pytest.approx(
        {"b": 1 / 62 + 1 / 62, "a": 1 / 61, "c": 1 / 61}
    )
    assert list(fuse([{"z": 1.0}, {"y": 1.0}], 1)) == ["y"], "equal scores are ordered by id"
    vector = mice.mice.pool(ranking.encode_query(mice.module, QUERY))[0]
    lists = [list(store.search_words(QUERY, 6)), list(store.search_vectors(vector, 6))]
    points = {id_: sum(1 / (61 + ids.index(id_)) for ids in lists if id_ in ids) for ids in lists for id_ in ids}
    right = sorted(points, key=lambda id_: (-points[id_], id_))[:6]
    assert find(store, ("bm25", "vectors"), QUERY, vector, 6).ids == right
    by_default = mice.rank(QUERY, store=store, candidates=6)
    assert by_default == mice.rank(QUERY, store=store, first_stage="both", candidates=6)
    assert mice_ids(by_default) == set(right)
    assert len(mice.rank(QUERY, store=store, first_stage="pooled", candidates=2, top_k=9)) == 9


def test_a_search_reads_no_row_but_those_it_needs(
    mice: MiceCrossEncoder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words and vectors are kept in the store: nothing is built from all texts or all rows."""
    for name in ("pooled", "texts", "ids", "documents_by_key"):
        monkeypatch.setattr(SqliteStore, name, None)
    assert mice.rank(QUERY, store=store)


def test_one_row_s_text_is_read_without_the_others(store: SqliteStore, mice: MiceCrossEncoder) -> None:
    assert list(store.texts(["d7", "d3", "d7"])) == [(id_, TEXTS[id_]) for id_ in ("d7", "d3", "d7")]
    with pytest.raises(UnknownDocumentError, match="2 unknown document id"):
        list(store.texts(["d1", "no", "neither"]))


# Errors


def test_unknown_ids_are_named_before_anything_is_scored(
    mice: MiceCrossEncoder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for read_documents in (3, 128):
        monkeypatch.setattr(ranking, "READ_DOCUMENTS", read_documents)
        with pytest.raises(UnknownDocumentError, match="'no', 'neither'") as raised:
            mice.rank(QUERY, store=store, ids=[*IDS, "no", "neither"])
        assert raised.value.ids == ["no", "neither"]


def test_contradicting_arguments_are_refused(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    with pytest.raises(ValueError, match="do not go with a store"):
        mice.rank(QUERY, ["text"], store=store)
    with pytest.raises(ValueError, match="do not go with a store"):
        mice.rank(QUERY, store=store, device=["cpu", "cpu"])
    with pytest.raises(ValueError, match="expected documents, or a store"):
        mice.rank(QUERY)
    with pytest.raises(ValueError, match="expected documents, or a store"):
        mice.rank(QUERY, ["text"], ids=["d1"])
    with pytest.raises(ValueError, match="there is nothing to search for"):
        mice.rank(QUERY, store=store, ids=["d1"], first_stage="bm25")
    with pytest.raises(ValueError, match="expected a list of ids"):
        mice.rank(QUERY, store=store, ids="d1")
    with pytest.raises(ValueError, match="must be one of bm25, vectors, pooled, both"):
        mice.rank(QUERY, store=store, first_stage="dense")


def test_a_store_of_another_model_is_refused(mice_folder: Path, store: SqliteStore) -> None:
    other = MiceCrossEncoder(str(mice_folder), device="cpu")
    other.max_seq_length = 20
    with pytest.raises(StoreMismatchError, match="another max_length: made with 32, to be used with 20"):
        other.rank(QUERY, store=store, ids=IDS)


def test_an_empty_store_answers_with_nothing_and_says_so(mice: MiceCrossEncoder, tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "empty.sqlite", fingerprint_of(mice, "fp16"), read_only=False) as store:
        found = ranking.rank_store(mice.module, store, QUERY)
        assert (list(found), found.notes) == ([], ["the store is empty"])
        assert mice.rank(QUERY, store=store, ids=[]) == []


def test_a_damaged_row_is_an_error_not_a_score(mice: MiceCrossEncoder, store_path: Path, tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "damaged.sqlite"
    path.write_bytes(store_path.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE states SET payload = zeroblob(length(payload)) WHERE id = 'd4'")
    with SqliteStore(path, None, read_only=True) as store, pytest.raises(StoreCorruptError, match="'d4'"):
        mice.rank(QUERY, store=store, ids=IDS)


# Long documents


LONG = [
    Document("short", "cat"),
    Document("long", " ".join(Random(1).choices(WORDS, k=70))),
    Document("longer", " ".join(Random(2).choices(WORDS, k=110))),
]


def by_hand(mice: MiceCrossEncoder, overlap: int) -> dict[str, float]:
    """Cut by words of the token sequence, score each passage as a text of its own, take the best."""
    best = {}
    for document in LONG:
        words = document.text.split()  # every word is one token
        room = mice.mice.config.document_max_length - 2
        starts = range(0, max(len(words) - overlap, 1), room - overlap)
        passages = [" ".join(words[start : start + room]) for start in starts]
        assert len(passages) == len(tokenize_documents(mice.module, [document.text], overlap)[0])
        best[document.id] = max(mice.predict([(QUERY, passage) for passage in passages]).tolist())
    return best


@pytest.mark.parametrize("overlap", [None, 0, 11])
def test_a_long_document_scores_as_its_best_passage(
    overlap: int | None, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    right = by_hand(mice, 7 if overlap is None else overlap)
    texts = [document.text for document in LONG]
    on_the_fly = scores_of(mice.rank(QUERY, texts, passages=True, overlap=overlap))
    assert on_the_fly == pytest.approx(dict(enumerate(right.values())), abs=1e-5)
    states = mice.encode_documents(texts, passages=True, overlap=overlap)
    assert scores_of(mice.rank(QUERY, states)) == pytest.approx(on_the_fly, abs=1e-5)
    mixed = mice.predict([(QUERY, states[1]), (QUERY, texts[1]), ("cat", states[2])], passages=True, overlap=overlap)
    assert mixed[0] == pytest.approx(mixed[1], abs=1e-5)
    with SqliteStore(tmp_path / "long.sqlite", fingerprint_of(mice, "fp32"), read_only=False) as store:
        encode_corpus(mice, LONG, store, passages=True, overlap=overlap)
        stored = scores_of(mice.rank(QUERY, store=store, ids=["longer", "short", "long"]))
        assert stored == pytest.approx(right, abs=1e-5)
        assert mice_ids(mice.rank(LONG[2].text, store=store)) >= {"long", "longer"}
    cut = scores_of(mice.rank(QUERY, texts))
    assert cut[0] == pytest.approx(on_the_fly[0], abs=1e-5)
    assert on_the_fly[1] > cut[1] + 1e-4 or on_the_fly[2] > cut[2] + 1e-4, "the first passage must not always be best"
    with_texts = mice.rank(QUERY, texts, passages=True, overlap=overlap, top_k=1, return_documents=True)
    assert with_texts[0]["text"] == texts[with_texts[0]["corpus_id"]]


def test_long_documents_refuse_several_devices(mice: MiceCrossEncoder) -> None:
    with pytest.raises(ValueError, match="passages: worker processes score pairs whole"):
        mice.predict([("a", "b")], passages=True, device=["cpu", "cpu"])


# Commands


def run(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert cli.main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status == 2 else captured.out


def test_encode_store_and_rank_from_the_command_line(
    mice: MiceCrossEncoder, mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "corpus.sqlite"
    lines = [json.dumps({"_id": d.id, "text": d.text}) for d in [*CORPUS, *LONG]]
    corpus.write_text("\n".join([*lines, "no json"]))
    encode = ["encode", "--model", mice_folder, "--documents", corpus, "--store", store, "--codec", "int8"]
    stopping = [*encode, "--long-documents", "passages", "--shard-documents", 40]
    assert "corpus.jsonl, line 44" in run(capsys, *stopping, status=2)
    how = ["--long-documents", "passages", "--overlap", 8, "--on-error", "skip", "--shard-documents", 10]
    assert "another index" in run(capsys, *encode, *how, status=2), "the overlap is the store's own"
    store.unlink()
    printed = run(capsys, *encode, *how)
    assert "43 documents: 43 added, 0 changed, 0 unchanged; 0 cut, 2 in" in printed
    assert "1 bad lines skipped" in printed
    assert "43 unchanged" in run(capsys, *encode, *how)
    assert "codec: " in run(capsys, *encode[:-1], "fp16", status=2)

    info = run(capsys, "store", "info", store)
    assert "documents: 43, " in info
    assert "long documents: 2, in " in info
    assert "texts: 43 (words by unicode61); metadata: 0; pooled vectors: 43" in info
    assert "  codec: int8\n" in info
    assert "43 sound documents, " in run(capsys, "store", "verify", "--store", store)
    before, after = run(capsys, "store", "compact", store).split(" bytes before, ")
    assert int(after.split()[0].replace(",", "")) <= int(before.replace(",", ""))
    assert "0 problems" in run(capsys, "store", "verify", store)

    rank = ["rank", "--model", mice_folder, "--query", QUERY, "--json"]
    with open_store(store, None, read_only=True) as opened:
        cases: list[tuple[list[str], dict[str, Any]]] = [
            (["--ids", "d3", "longer", "d1"], {"ids": ["d3", "longer", "d1"]}),
            (["--first-stage", "bm25", "--candidates", "4"], {"first_stage": "bm25", "candidates": 4, "top_k": 10}),
            ([], {"top_k": 10}),
        ]
        for flags, asked in cases:
            found = [json.loads(line) for line in run(capsys, *rank, "--store", store, *flags).splitlines()]
            right = mice.rank(QUERY, store=opened, return_documents=True, **asked)
            rank_alike([line | {"corpus_id": line["id"]} for line in found], right)
            texts_of = {entry["corpus_id"]: entry["text"] for entry in right}
            assert all(line["text"] == texts_of[line["id"]] for line in found if line["id"] in texts_of)
    assert run(capsys, *rank[:-1], "--store", store, "--top-k", 1).startswith("   1 ")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(document.text for document in LONG))
    found = [json.loads(line) for line in run(capsys, *rank, "--documents", texts, *how[:2]).splitlines()]
    right = mice.rank(QUERY, [document.text for document in LONG], passages=True)
    rank_alike([line | {"corpus_id": int(line["id"])} for line in found], right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "--model", "m", "--query", "q"], "give either --documents or --store, and not both"),
        (["rank", "--model", "m", "--query", "q", "--documents", "d", "--store", "s"], "give either --documents"),
        (["rank", "--model", "m", "--query", "q", "--documents", "d", "--ids", "a"], "need --store"),
        (["rank", "--model", "m", "--query", "q", "--store", "s", "--candidates", "0"], "candidates: must be at least"),
        (["rank", "--model", "o/m", "--query", "q", "--store", "absent"], "absent: there is no store here"),
        (
            ["encode", "--model", "m", "--documents", "c", "--store", "s", "--codec", "int2"],
            "--codec: invalid choice: 'int2'",
        ),
        (["encode", "--model", "m", "--documents", "c", "--store", "s", "--processes", "0"], "processes: must be"),
        (["encode", "--model", "m", "--documents", "c", "--store", "s", "--overlap", "3"], "overlap: needs --long-doc"),
        (["store", "info", "absent"], "absent: there is no store here"),
        (["store", "compact", "absent"], "absent: there is no store here"),
    ],
)
def test_errors_of_the_commands_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run(capsys, *arguments, status=2)
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir()), "an error leaves no file behind"


def test_verify_prints_problems_and_returns_1(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray(store_path.read_bytes())
    place = damaged.rindex(b"museum")
    damaged[place : place + 6] = b"MUSEUM"
    (tmp_path / "damaged.sqlite").write_bytes(damaged)
    printed = run(capsys, "store", "verify", tmp_path / "damaged.sqlite", status=1)
    assert "problem: document 'd" in printed
    assert "39 sound documents" in printed
    assert "1 problems" in printed
