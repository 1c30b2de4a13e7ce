"""An index in Lance: the same answers as in SQLite, through the same object."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("lance")

import lance

from mice_st import MiceCrossEncoder, MiceIndex
from mice_st.states import migrate
from mice_st.states.errors import StoreMovedError
from mice_st.states.lance_migration import LanceMigration
from mice_st.states.lance_store import LanceStore
from tests.test_index import QUERY, TEXTS, of_texts, other_folder
from tests.text_pairs import rank_alike

__all__ = ["other_folder"]  # a fixture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpus.lance"


def test_it_answers_as_an_index_in_sqlite(path: Path, mice: MiceCrossEncoder) -> None:
    ways = [{}, {"where": {"n": [0, 1, 2]}}, {"first_stage": "bm25"}, {"first_stage": "vectors", "top_k": 2}]
    answers = []
    for name in ("corpus.sqlite", "corpus.lance"):
        with MiceIndex.open(path.with_name(name), mice) as index:
            index.add([(id_, text, {"n": number}) for number, (id_, text) in enumerate(TEXTS.items())])
            answers.append([list(index.search(QUERY, **way)) for way in ways])  # type: ignore[arg-type]
    for mine, right in zip(*answers, strict=True):
        assert [entry["corpus_id"] for entry in mine] == [entry["corpus_id"] for entry in right]
        assert [entry["score"] for entry in mine] == pytest.approx([entry["score"] for entry in right], abs=1e-5)


def test_a_search_reads_one_commit_from_beginning_to_end(
    path: Path, mice: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that is deleted between first stage and ranking is ranked as it was."""
    with MiceIndex.open(path, mice, codec="fp32") as writer, MiceIndex.open(path, mice, read_only=True) as reader:
        writer.add(TEXTS)
        plain = LanceStore.search_vectors

        def slow(store: LanceStore, *arguments: object) -> dict[str, float]:
            found = plain(store, *arguments)  # type: ignore[arg-type]
            if store is reader.store:
                thread = threading.Thread(target=writer.delete, args=("museum",))
                thread.start()
                thread.join()
            return found

        monkeypatch.setattr(LanceStore, "search_vectors", slow)
        found = reader.search(QUERY)
        assert found.dropped == 0
        rank_alike(found, of_texts(mice, TEXTS))
        monkeypatch.undo()
        assert "museum" not in {entry["corpus_id"] for entry in reader.search(QUERY)}


def test_migration_goes_on_where_it_was_broken_off(
    path: Path, mice: MiceCrossEncoder, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MiceCrossEncoder(str(other_folder), device="cpu")
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add(TEXTS)
    follower = MiceIndex.open(path, read_only=True)
    stubborn = MiceIndex.open(path, mice, read_only=True)
    monkeypatch.setattr(migrate, "SHARD_DOCUMENTS", 2)
    plain = LanceMigration.put

    def put(migration: LanceMigration, *arguments: object) -> None:
        plain(migration, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(LanceMigration, "put", put)
    with MiceIndex.open(path) as index, pytest.raises(KeyboardInterrupt):
        index.migrate(other)
    monkeypatch.setattr(LanceMigration, "put", plain)
    rank_alike(follower.search(QUERY), of_texts(mice, TEXTS))
    with MiceIndex.open(path) as index:
        assert index.migrate(str(other_folder)) == len(TEXTS) - 2, "two were done"
        rank_alike(index.rank(QUERY, list(TEXTS)), of_texts(other, TEXTS))
        assert index.verify().problems == []
        assert index.migrate(other) == 0
    rank_alike(follower.rank(QUERY, list(TEXTS)), of_texts(other, TEXTS))
    with pytest.raises(StoreMovedError):
        stubborn.search(QUERY)


def test_repair_encodes_damaged_documents_anew_and_names_lost_ones(path: Path, mice: MiceCrossEncoder) -> None:
    with MiceIndex.open(path, mice, codec="fp32") as index:
        index.add(TEXTS)
        dataset = lance.dataset(str(path))
        dataset.update({"payload": "input_ids"}, where="id = 'cat'")
        dataset.update({"text": "'damaged'"}, where="id = 'sort'")
        lance.write_dataset(dataset.to_table(filter="id = 'berlin'"), str(path), mode="append")
        assert len(index.verify().problems) == 3
        report = index.repair()
        assert sorted(report.encoded) == ["berlin", "cat"]
        assert report.lost == ["sort"]
        assert index.verify().problems == []
        left = {id_: text for id_, text in TEXTS.items() if id_ != "sort"}
        rank_alike(index.rank(QUERY, list(left)), of_texts(mice, left))
