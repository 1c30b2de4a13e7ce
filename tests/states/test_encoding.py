"""Corpus encoding: only what is missing or changed is encoded, nothing is lost to a kill, and who encodes does not show."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Document
from mice_st.modeling.st_mice import MiceTransformer
from mice_st.states import encoding
from mice_st.states.encoding import SHARD_CHARACTERS, encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.errors import StoreMismatchError
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.info import store_info
from mice_st.states.passages import tokenize_documents
from mice_st.states.shards import EncodedShard, encode_shard
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.store import Store

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
Rows = list[tuple]


def text_of(number: int, words: int = 8) -> str:
    return " ".join(WORDS[(number * 7 + place * (1 + number % 5)) % len(WORDS)] for place in range(words))


def documents(count: int, words: int = 8) -> list[Document]:
    return [Document(f"d{number}", text_of(number, words)) for number in range(count)]


def write(path: Path, corpus: list[Document]) -> Path:
    path.write_text("".join(json.dumps({"_id": d.id, "text": d.text}) + "\n" for d in corpus))
    return path


def rows(store: Store) -> Rows:
    """Every byte of a store, in the order in which documents were first put."""
    light = list(store.checked_documents())
    packed = store.get([row.id for row in light])
    ends = packed.offsets
    return [
        (*row, packed.payload[ends[i] : ends[i + 1]].tolist(), packed.input_ids[ends[i] : ends[i + 1]].tolist())
        for i, row in enumerate(light)
    ]


@pytest.fixture
def store(mice: MiceCrossEncoder, tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "made.sqlite", fingerprint_of(mice, "fp32"), read_only=False) as store:
        yield store


@pytest.fixture(scope="module")
def uninterrupted(mice: MiceCrossEncoder, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What 60 documents become in shards of 7."""
    path = tmp_path_factory.mktemp("whole") / "whole.sqlite"
    with SqliteStore(path, fingerprint_of(mice, "fp32"), read_only=False) as store:
        report = encode_corpus(mice, documents(60), store, shard_documents=7)
        assert (report.documents, report.added, report.changed, report.unchanged) == (60, 60, 0, 0)
        return rows(store)


def test_states_texts_and_pooled_vectors_are_those_of_the_model(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    corpus = [*documents(5), Document("long", text_of(1, 60)), Document("empty", "")]
    report = encode_corpus(mice, corpus, store)
    assert (report.added, report.cut, report.long) == (7, 1, 0)
    in_memory = mice.encode_documents([document.text for document in corpus])
    packed = store.get([document.id for document in corpus])
    for place, document in enumerate(in_memory):
        read = packed.document(place)
        assert torch.equal(read.input_ids, document.input_ids)
        torch.testing.assert_close(read.states, document.states, atol=1e-5, rtol=0)
    assert dict(store.texts()) == {document.id: document.text for document in corpus}
    ids, vectors = store.pooled()
    assert ids == [document.id for document in corpus]
    wanted = torch.stack([document.states.mean(0) for document in in_memory])
    torch.testing.assert_close(vectors.float(), wanted, atol=2e-3, rtol=0)


def test_only_missing_and_changed_documents_are_encoded_again(
    mice: MiceCrossEncoder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_corpus(mice, documents(20), store, shard_documents=6)
    encoded: list[str] = []

    def spy(module: MiceTransformer, texts: list[str], names: list[str], overlap: int | None) -> EncodedShard:
        encoded.extend(texts)
        return encode_shard(module, texts, names, overlap)

    monkeypatch.setattr(encoding, "encode_shard", spy)
    corpus = documents(22)
    corpus[3] = Document("d3", "another text")
    report = encode_corpus(mice, corpus, store, shard_documents=5)
    assert encoded == ["another text", text_of(20), text_of(21)]
    assert (report.documents, report.added, report.changed, report.unchanged) == (22, 2, 1, 19)
    assert dict(store.texts()) == {document.id: document.text for document in corpus}
    changed = mice.encode_documents(["another text"])[0]
    torch.testing.assert_close(store.document("d3").states, changed.states, atol=1e-5, rtol=0)
    assert encode_corpus(mice, corpus, store).unchanged == 22


KILLED = """
import sys, time
from mice_st import MiceCrossEncoder
from mice_st.modeling.st_mice import MiceTransformer
from mice_st.states import encoding
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.engines import open_store
import torch

def main():
    torch.set_num_threads(1)
    folder, corpus, path, processes = sys.argv[1:]
    put = encoding._put
    def slow_put(*arguments):
        time.sleep(0.05)
        put(*arguments)
        print("shard", flush=True)
    encoding._put = slow_put
    model = MiceCrossEncoder(folder, device="cpu")
    with open_store(path, fingerprint_of(model, "fp32"), read_only=False) as store:
        encoding.encode_corpus(model, corpus, store, shard_documents=7, processes=int(processes))

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_encoding_resumed_equals_an_uninterrupted_one(
    processes: int, mice: MiceCrossEncoder, mice_folder: Path, uninterrupted: Rows, tmp_path: Path
) -> None:
    corpus, path, script = write(tmp_path / "corpus.jsonl", documents(60)), tmp_path / "a.sqlite", tmp_path / "run.py"
    script.write_text(KILLED)
    child = subprocess.Popen(
        [sys.executable, script, mice_folder, corpus, path, str(processes)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(3):
        assert child.stdout.readline() == "shard\n"
    time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    # The pipe ends when the last process that holds it has: workers do not outlive the one that started them.
    child.stdout.read()
    assert child.wait() == -signal.SIGKILL
    with SqliteStore(path, fingerprint_of(mice, "fp32"), read_only=False) as store:
        assert store.verify().ok
        done = len(store)
        assert done >= 21, "an acknowledged shard is lost"
        assert done % 7 == 0, "a part of a shard was committed"
        report = encode_corpus(mice, corpus, store, shard_documents=7)
        assert (report.unchanged, report.added) == (done, 60 - done)
        assert rows(store) == uninterrupted


def test_two_processes_give_the_same_store_as_one(
    mice: MiceCrossEncoder, store: SqliteStore, uninterrupted: Rows
) -> None:
    report = encode_corpus(mice, documents(60), store, shard_documents=7, processes=2)
    assert report.added == 60
    assert rows(store) == uninterrupted


def test_a_bad_line_is_named_after_what_came_before_it_is_stored(
    mice: MiceCrossEncoder, store: SqliteStore, tmp_path: Path
) -> None:
    corpus = write(tmp_path / "corpus.jsonl", documents(8))
    with corpus.open("a") as file:
        file.write('{"text": "no id"}\n\nnot json\n{"_id": "d8", "text": "the river"}\n')
    with pytest.raises(ValueError, match=r"corpus.jsonl, line 9: no"):
        encode_corpus(mice, corpus, store, shard_documents=4)
    assert len(store) == 8
    report = encode_corpus(mice, corpus, store, on_error="skip")
    assert (report.documents, report.added, report.unchanged, report.skipped_lines) == (9, 1, 8, 2)
    assert "1 added, 0 changed, 8 unchanged" in str(report)
    assert "2 bad lines skipped" in str(report)


@pytest.mark.slow
def test_an_error_of_a_later_line_does_not_drop_what_processes_are_encoding(
    mice: MiceCrossEncoder, store: SqliteStore, tmp_path: Path
) -> None:
    corpus = write(tmp_path / "corpus.jsonl", documents(12))
    with corpus.open("a") as file:
        file.write("not json\n")
    with pytest.raises(ValueError, match="line 13"):
        encode_corpus(mice, corpus, store, shard_documents=4, processes=2)
    assert len(store) == 12


def test_a_bad_document_is_named_by_its_id(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    with pytest.raises(ValueError, match="document 'bad' holds a lone surrogate"):
        encode_corpus(mice, [Document("good", "cat"), Document("bad", "\ud800")], store)


def test_an_empty_corpus_makes_an_empty_store(mice: MiceCrossEncoder, store: SqliteStore, tmp_path: Path) -> None:
    empty = tmp_path / "corpus.jsonl"
    empty.write_text("\n")
    report = encode_corpus(mice, empty, store)
    assert (report.documents, len(store), store.verify().ok) == (0, 0, True)


def test_impossible_arguments_are_refused(mice: MiceCrossEncoder, store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="processes: must be at least 1"):
        encode_corpus(mice, [], store, processes=0)
    with pytest.raises(ValueError, match="shard_documents: must be at least 1"):
        encode_corpus(mice, [], store, shard_documents=0)
    with pytest.raises(ValueError, match="overlap: must lie between 0 and 29"):
        encode_corpus(mice, [], store, passages=True, overlap=30)
    with pytest.raises(ValueError, match="standard input cannot be read again"):
        encode_corpus(mice, "-", store)
    with pytest.raises(FileNotFoundError, match="no corpus at"):
        encode_corpus(mice, tmp_path / "absent.jsonl", store)


def test_shards_end_at_a_number_of_documents_or_of_characters() -> None:
    long = Document("long", "x" * SHARD_CHARACTERS)
    shards = encoding.cut_into_shards([*documents(5), long, Document("last", "y")], 3)
    assert [[document.id for document in shard] for shard in shards] == [
        ["d0", "d1", "d2"],
        ["d3", "d4"],
        ["long"],
        ["last"],
    ]


# Fingerprints


def test_a_store_of_another_model_is_refused_naming_the_field(
    mice: MiceCrossEncoder, mice_folder: Path, tmp_path: Path
) -> None:
    own = fingerprint_of(mice, "fp16")
    assert own == fingerprint_of(MiceCrossEncoder(str(mice_folder), device="cpu"), "fp16")
    other = MiceCrossEncoder(str(mice_folder), device="cpu")
    with torch.no_grad():
        other.mice.classifier.weight.add_(1.0)
        next(other.mice.interaction.parameters()).add_(1.0)
    assert fingerprint_of(other, "fp16") == own, "documents do not pass through these"
    with torch.no_grad():
        other.mice.backbone.embeddings.word_embeddings.weight[7].add_(1e-3)
    with pytest.raises(StoreMismatchError) as refused:
        own.check(fingerprint_of(other, "fp16"))
    assert refused.value.field == "weights_sha256"
    other.max_seq_length = 20
    assert fingerprint_of(other, "fp16", "passage: ") == replace(
        own, weights_sha256=fingerprint_of(other, "fp16").weights_sha256, max_length=20, prompt="passage: "
    )
    path = tmp_path / "own.sqlite"
    SqliteStore(path, own, read_only=False).close()
    for wanted, field in [(fingerprint_of(mice, "int8"), "codec"), (fingerprint_of(mice, "fp16", "p"), "prompt")]:
        with pytest.raises(StoreMismatchError, match=f"another {field}"):
            open_store(path, wanted, read_only=False)
    with (
        open_store(path, None, read_only=False) as store,
        pytest.raises(StoreMismatchError, match="another model: made by"),
    ):
        encode_corpus(other, documents(1), store)


def test_the_tokenizer_is_part_of_the_fingerprint_but_not_what_calls_leave_in_it(
    mice: MiceCrossEncoder, mice_folder: Path
) -> None:
    other = MiceCrossEncoder(str(mice_folder), device="cpu")
    other.tokenizer(["cat", "a dog"], padding=True, truncation=True, max_length=5)
    assert fingerprint_of(other, "fp16") == fingerprint_of(mice, "fp16")
    other.tokenizer.add_tokens(["newcomer"])
    assert fingerprint_of(other, "fp16").tokenizer_sha256 != fingerprint_of(mice, "fp16").tokenizer_sha256


def test_the_prompt_is_put_before_each_document(mice: MiceCrossEncoder, tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "p.sqlite", fingerprint_of(mice, "fp32", "list: "), read_only=False) as store:
        encode_corpus(mice, [Document("a", "cat and dog")], store)
        wanted = mice.encode_documents(["list: cat and dog"])[0]
        torch.testing.assert_close(store.document("a").states, wanted.states, atol=1e-5, rtol=0)
        assert dict(store.texts()) == {"a": "cat and dog"}


# Long documents


def test_passages_are_windows_that_overlap_and_reach_the_end(mice: MiceCrossEncoder) -> None:
    config = mice.mice.config  # 32 tokens: 30 between [CLS] and [SEP]
    texts = [text_of(2, words) for words in (0, 29, 30, 31, 52, 53, 200)]
    ids = mice.tokenizer(texts, add_special_tokens=False)["input_ids"]
    for row, passages in zip(ids, tokenize_documents(mice.module, texts, 8), strict=True):
        inner = [passage[1:-1] for passage in passages]
        assert all((passage[0], passage[-1]) == (config.cls_token_id, config.sep_token_id) for passage in passages)
        assert all(len(passage) == 30 for passage in inner[:-1])
        assert all(before[-8:] == after[:8] for before, after in pairwise(inner))
        assert inner[0] + [token for passage in inner[1:] for token in passage[8:]] == row
        assert len(inner) == 1 or len(inner[-1]) > 8, "a passage without any new token"


def test_long_documents_are_stored_by_passage_and_counted(mice: MiceCrossEncoder, store: SqliteStore) -> None:
    corpus = [*documents(3), Document("long", text_of(1, 60)), Document("longer", text_of(2, 100))]
    report = encode_corpus(mice, corpus, store, passages=True, overlap=8)
    assert (report.documents, report.cut, report.long, report.passages) == (5, 0, 2, 3 + 5)
    info = store_info(store, str(store.path))
    assert (info.documents, info.long, info.passages, info.texts, info.pooled) == (5, 2, 8, 5, 5)
    assert info.state_bytes == info.tokens * 4 * 32
    assert "long documents: 2, in 8 passages" in str(info)
    in_memory = mice.encode_documents([d.text for d in corpus], passages=True, overlap=8)
    for document, states in zip(corpus, in_memory, strict=True):
        torch.testing.assert_close(store.document(document.id).states, states.states, atol=1e-5, rtol=0)
    assert encode_corpus(mice, corpus, store, passages=True, overlap=8).unchanged == 5
    assert encode_corpus(mice, corpus, store, passages=True, overlap=4).changed == 5
    assert encode_corpus(mice, corpus, store).changed == 5
    assert store_info(store, str(store.path)).long == 0


@pytest.mark.parametrize("show", [True, False, None])
def test_a_progress_bar_changes_nothing(
    show: bool | None, mice: MiceCrossEncoder, store: SqliteStore, capsys: pytest.CaptureFixture[str]
) -> None:
    report = encode_corpus(mice, documents(2), store, show_progress_bar=show)
    again = encode_corpus(mice, documents(3), store, show_progress_bar=show)
    assert (report.documents, report.added, again.added, again.unchanged) == (2, 2, 1, 2)
    assert ("Documents" in capsys.readouterr().err) == bool(show)


def test_another_threads_failure_does_not_drop_what_is_being_committed(
    mice: MiceCrossEncoder, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that fails drops what is uncommitted: it must not come between a put and its commit."""
    import threading

    plain, failed = SqliteStore.commit, threading.Event()

    def fail() -> None:
        with pytest.raises(RuntimeError), store._transaction():
            raise RuntimeError
        failed.set()

    def commit(self: SqliteStore) -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        failed.wait(0.3)
        plain(self)

    monkeypatch.setattr(SqliteStore, "commit", commit)
    encode_corpus(mice, documents(2), store)
    assert failed.wait(5)
    monkeypatch.undo()
    assert sorted(store.ids()) == ["d0", "d1"]
