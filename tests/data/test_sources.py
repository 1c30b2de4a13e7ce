"""Collections by name: folders, archives, several splits, and what is refused."""

import tarfile
from pathlib import Path

import pytest

from mice_st.data.collection import Collection, read_beir, write_beir
from mice_st.data.sources import is_collection, load_collection, split_source, unpacked_folder

PETS = Collection("pets", {"a": "cat", "b": "dog"}, {"q1": "c", "q2": "d"}, {"q1": {"a": 1}, "q2": {"b": 1}})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder ``pets`` with splits dev (q1), test (q2) and again (q1)."""
    for split, query_id in (("dev", "q1"), ("test", "q2"), ("again", "q1")):
        write_beir(
            Collection("pets", PETS.corpus, PETS.queries, {query_id: PETS.qrels[query_id]}), tmp_path / "pets", split
        )
    return tmp_path


def archive(data: Path) -> None:
    with tarfile.open(data / "zoo.tar.gz", "w:gz") as files:
        files.add(data / "pets", "zoo")


def test_a_split_is_what_read_beir_reads(data: Path) -> None:
    assert load_collection(f"{data}/pets:dev", "test") == read_beir(data / "pets", "dev")
    assert load_collection(f"{data}/pets", "test") == read_beir(data / "pets", "test")


def test_several_splits_are_joined(data: Path) -> None:
    assert load_collection(f"{data}/pets:dev+test", "x") == PETS
    with pytest.raises(ValueError, match="query 'q1' of split 'again' is in an earlier split too"):
        load_collection(f"{data}/pets:dev+again", "x")


def test_an_archive_is_read_like_its_folder(data: Path) -> None:
    archive(data)
    for source in ("zoo", "zoo.tar.gz"):
        read = load_collection(f"{data}/{source}:dev+test", "x")
        assert (read.name, read.corpus, read.queries, read.qrels) == ("zoo", PETS.corpus, PETS.queries, PETS.qrels)
        assert is_collection(f"{data}/{source}:dev")
    with unpacked_folder(f"{data}/zoo") as folder:
        assert (folder / "corpus.jsonl").is_file()
    assert not folder.exists()


def test_python_docs_is_a_name_in_any_folder() -> None:
    assert is_collection("data/python-docs:test")
    assert load_collection("data/python-docs", "test").name == "python-docs"


def test_what_cannot_be_read_is_named(data: Path) -> None:
    assert not is_collection(f"{data}/birds")
    with pytest.raises(FileNotFoundError, match=r"birds: there is no such folder, and no birds\.tar\.gz"):
        load_collection(f"{data}/birds", "test")
    with pytest.raises(FileNotFoundError, match=r"no split 'train'.*available: again, dev, test"):
        load_collection(f"{data}/pets:train", "test")
    (data / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken\.tar\.gz: cannot be unpacked"):
        load_collection(f"{data}/broken", "test")
    with tarfile.open(data / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"expected one folder with a corpus\.jsonl, found 0"):
        load_collection(f"{data}/empty", "test")


def test_a_colon_in_a_path_is_no_split() -> None:
    assert split_source("C:\\data\\pets", "test") == ("C:\\data\\pets", "test")
    assert split_source("a/pets:dev+test", "x") == ("a/pets", "dev+test")
