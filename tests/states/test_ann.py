"""The approximate index of vectors: it finds what the exact pass finds, whatever is deleted, filtered or added, or gives way to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mice_st.commands import main as cli
from mice_st.states import ann, sqlite_ann, sqlite_search, sqlite_writer
from mice_st.states.ann import AnnIndex, build_ann, file_crc
from mice_st.states.errors import StoreError, StoreFullError, StoreReadOnlyError
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.sqlite_upgrade import salvage_sqlite
from mice_st.states.store import Store
from mice_st.states.vectors import cosines
from mice_st.states.where import Where
from tests.states.made import FINGERPRINT, Document
from tests.states.test_search import check_history

N, WIDTH, CLUSTERS = 6000, 32, 40
ONE = Document(torch.zeros(1, FINGERPRINT.width), torch.zeros(1, dtype=torch.int64))


def drawn(number: int, seed: int) -> tuple[torch.Tensor, list[int]]:
    """Vectors of a mixture of Gaussians, and the Gaussian of each."""
    centres = torch.randn(CLUSTERS, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(CLUSTERS, (number,), generator=generator)
    vectors = centres[chosen] + 0.6 * torch.randn(number, WIDTH, generator=generator)
    return vectors * (1 + torch.arange(number)[:, None] % 3), chosen.tolist()  # of several lengths


VECTORS, GAUSSIANS = drawn(N, 1)
MORE = drawn(N // 10, 2)
QUERIES = drawn(12, 3)[0]
IDS = [f"d{number:05}" for number in range(N)]


def put(store: SqliteStore, ids: list[str], vectors: torch.Tensor, clusters: list[int]) -> None:
    metadata = [{"of100": n % 100, "of10": n % 10, "cluster": clusters[n]} for n in range(len(ids))]
    store.put(ids, [ONE] * len(ids), ["h"] * len(ids), pooled=vectors, metadata=metadata)  # type: ignore[list-item]
    store.commit()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    with SqliteStore(folder / "store.sqlite", FINGERPRINT, read_only=False) as store:
        put(store, IDS, VECTORS, GAUSSIANS)
        assert store.build_ann() == N
    return folder


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filled, tmp_path / "here") / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path, None, read_only=False) as opened:
        yield opened


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors each pass of cosines has looked at."""
    numbers: list[int] = []

    def counted(slots: np.ndarray, vector: torch.Tensor) -> np.ndarray:
        numbers.append(len(slots))
        return cosines(slots, vector)

    monkeypatch.setattr(sqlite_search, "cosines", counted)
    return numbers


def exact(query: torch.Tensor, ids: list[str], vectors: torch.Tensor, top_k: int) -> dict[str, float]:
    """The right answer, by torch alone."""
    scores = F.cosine_similarity(vectors.double(), query[None].double(), dim=-1)
    best = scores.argsort(descending=True)[:top_k].tolist()
    return {ids[place]: float(scores[place]) for place in best}


def recall(store: SqliteStore, ids: list[str], vectors: torch.Tensor, where: Where | None, top_k: int = 100) -> float:
    """Mean recall; every score is a cosine, every document is one that may be found, and the answers are full."""
    place = {id_: number for number, id_ in enumerate(ids)}
    shares = []
    for query in QUERIES:
        right = exact(query, ids, vectors, top_k)
        found = store.search_vectors(query, top_k, where)
        assert len(found) == len(right)
        mine = torch.stack([vectors[place[id_]] for id_ in found])
        right_scores = F.cosine_similarity(mine.double(), query[None].double(), dim=-1)
        assert list(found.values()) == pytest.approx(right_scores.tolist(), abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        shares.append(len(found.keys() & right.keys()) / len(right))
    return sum(shares) / len(shares)


def test_recall_of_the_whole_store(store: SqliteStore, looked_at: list[int]) -> None:
    assert recall(store, IDS, VECTORS, None) >= 0.95
    assert max(looked_at) < N / 5, "the index was used"
    looked_at.clear()
    assert recall(store, IDS, VECTORS, None, top_k=10) >= 0.95
    assert max(looked_at) < N / 20


@pytest.mark.parametrize(
    ("conditions", "admits"),
    [
        ({"of100": 7}, lambda n: n % 100 == 7),
        ({"of10": 7}, lambda n: n % 10 == 7),
        ({"of10": {"!=": 7}}, lambda n: n % 10 != 7),
        ({"cluster": [0, 1, 2, 3]}, lambda n: GAUSSIANS[n] <= 3),  # far from most queries
        ({"cluster": {">": 3}}, lambda n: GAUSSIANS[n] > 3),
    ],
)
def test_recall_with_filters(store: SqliteStore, conditions: dict, admits: Callable[[int], bool]) -> None:
    places = [n for n in range(N) if admits(n)]
    assert recall(store, [IDS[n] for n in places], VECTORS[places], Where(conditions)) >= 0.95


def test_recall_after_the_nearest_were_deleted(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "DEAD_SLOTS", N)
    nearest = {id_ for query in QUERIES[:4] for id_ in exact(query, IDS, VECTORS, 400)}
    store.delete(sorted(nearest))
    store.commit()
    left = [n for n in range(N) if IDS[n] not in nearest]
    for top_k in (10, 100):
        assert recall(store, [IDS[n] for n in left], VECTORS[left], None, top_k) >= 0.95


def test_recall_with_documents_added_and_replaced_since(store: SqliteStore, looked_at: list[int]) -> None:
    ids = [f"new{number}" for number in range(len(MORE[0]))]
    put(store, ids, *MORE)
    assert recall(store, IDS + ids, torch.cat([VECTORS, MORE[0]]), None) >= 0.95
    assert max(looked_at) < N / 5
    moved = VECTORS.flip(0)[:50]
    store.put(IDS[:50], [ONE] * 50, ["other"] * 50, pooled=moved)  # type: ignore[list-item]
    assert recall(store, IDS + ids, torch.cat([moved, VECTORS[50:], MORE[0]]), None) >= 0.95, "before the commit too"
    store._end(commit=False)
    assert recall(store, IDS + ids, torch.cat([VECTORS, MORE[0]]), None) >= 0.95


def test_recall_of_queries_that_lie_in_no_cluster(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "QUERIES", torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(4))
    )
    for top_k in (10, 100):
        assert recall(store, IDS, VECTORS, None, top_k) >= 0.95


def test_few_admitted_documents_are_all_found(store: SqliteStore) -> None:
    places = [n for n in range(N) if n % 100 == 7 and GAUSSIANS[n] < 3]
    found = store.search_vectors(QUERIES[0], 50, Where({"of100": 7, "cluster": {"<": 3}}))
    assert 0 < len(places) < 50
    assert found.keys() == {IDS[n] for n in places}
    assert len(store.search_vectors(QUERIES[0], N + 5)) == N
    assert store.search_vectors(QUERIES[0], 5, Where({"cluster": CLUSTERS})) == {}


def test_equal_vectors_come_by_id(store: SqliteStore) -> None:
    ids = [f"t{number:03}" for number in range(700)]
    put(store, ids[::-1], QUERIES[:1].repeat(700, 1), [0] * 700)
    assert store.build_ann() == N + 700
    for top_k in (1, 20, 150):
        assert list(store.search_vectors(QUERIES[0], top_k)) == ids[:top_k]
    assert len(store.search_vectors(torch.zeros(WIDTH), 3)) == 3


# Its file


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if "-vectors-" in file.name or "-ann-" in file.name)


def test_it_follows_the_file_of_vectors(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert files(path) == ["store.sqlite-ann-2", "store.sqlite-vectors-2"]
    store.delete(IDS[:10])
    store.commit()
    store.compact()
    assert files(path) == ["store.sqlite-ann-3", "store.sqlite-vectors-3"]
    monkeypatch.setattr(sqlite_writer, "DEAD_SLOTS", 5)
    store.delete(IDS[10 : N // 3])  # so many that the next commit makes the file of vectors anew
    store.commit()
    assert files(path) == ["store.sqlite-ann-4", "store.sqlite-vectors-4"]
    store.rebuild_first_stage()
    assert files(path) == ["store.sqlite-ann-5", "store.sqlite-vectors-5"]
    assert store.verify().problems == []
    left = range(N // 3, N)
    assert recall(store, IDS[N // 3 :], VECTORS[left], None) >= 0.95
    assert store.drop_ann()
    assert files(path) == ["store.sqlite-vectors-5"]
    assert not store.drop_ann()
    assert recall(store, IDS[N // 3 :], VECTORS[left], None) == 1
    store.compact()
    assert files(path) == ["store.sqlite-vectors-6"], "none comes back"
    assert caplog.text == ""


def test_an_emptied_store_has_one_again_with_its_next_documents(store: SqliteStore, path: Path) -> None:
    store.delete(IDS)
    store.commit()
    store.compact()
    assert files(path) == []
    assert store.search_vectors(QUERIES[0], 5) == {}
    put(store, IDS[:3], VECTORS[:3], [0] * 3)
    assert [name.rpartition("-")[0] for name in files(path)] == ["store.sqlite-ann", "store.sqlite-vectors"]
    assert len(store.search_vectors(QUERIES[0], 5)) == 3
    assert store.verify().problems == []


def test_it_is_read_once_until_there_is_another(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(file: Path, *arguments: int) -> AnnIndex:
        read.append(file)
        return AnnIndex(file, *arguments)

    monkeypatch.setattr(sqlite_ann, "AnnIndex", counted)
    with SqliteStore(path, None, read_only=True) as reader:
        reader.search_vectors(QUERIES[0], 5)
        reader.search_vectors(QUERIES[1], 5, Where({"of10": 3}))
        store.delete(IDS[:1])
        store.commit()
        reader.search_vectors(QUERIES[2], 5)
        assert [file.name for file in read] == ["store.sqlite-ann-2"]
        with reader.reading():
            before = reader.search_vectors(QUERIES[3], 100)
            store.build_ann()
            assert reader.search_vectors(QUERIES[3], 100) == before, "of the same commit, though its files are gone"
        reader.search_vectors(QUERIES[3], 5)
        assert [file.name for file in read] == ["store.sqlite-ann-2", "store.sqlite-ann-3"]


FRESH = """
import sys
from mice_st.states.sqlite_store import SqliteStore
import torch
for path in sys.argv[1:]:
    with SqliteStore(path, None, read_only=True) as store:
        assert "faiss" not in sys.modules
        print(list(store.search_vectors(torch.ones(32), 7)))
        print("faiss" in sys.modules)
"""


def test_another_process_finds_the_same_and_makes_nothing(path: Path, store: SqliteStore, tmp_path: Path) -> None:
    plain = tmp_path / "plain" / "store.sqlite"
    plain.parent.mkdir()
    store.backup(str(plain))
    with SqliteStore(plain, None, read_only=False) as without:
        without.drop_ann()
        answers = [list(each.search_vectors(torch.ones(WIDTH), 7)) for each in (without, store)]
    made = [*plain.parent.glob("*-vectors-*"), *path.parent.glob("*-vectors-*"), *path.parent.glob("*-ann-*")]
    before = {file: file.stat().st_mtime_ns for file in made}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(plain), str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(answers[0]), "False", str(answers[1]), "True"]
    assert len(before) == 3
    assert before == {file: file.stat().st_mtime_ns for file in made}


def unlink(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [unlink, truncate, flip])
def test_a_lost_or_damaged_file_gives_way_to_the_exact_pass(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(path.with_name("store.sqlite-ann-2"))
    with SqliteStore(path, None, read_only=True) as reader:
        assert recall(reader, IDS, VECTORS, None) == 1
        assert len(caplog.records) == 1
        assert f"`mice-st store index {path} --ann` makes it anew" in caplog.text
        (problem,) = reader.verify().problems
        assert "the approximate index" in problem
    with SqliteStore(path, None, read_only=False) as store:
        store.build_ann()
        assert store.verify().problems == []
        caplog.clear()
        store.search_vectors(QUERIES[0], 5)
        assert caplog.text == ""


def enter(store: SqliteStore, **values: int) -> None:
    """Change what the store says of its index."""
    with store._transaction() as writer:
        (line,) = writer.execute("SELECT definition FROM derived WHERE name = 'ann'").fetchone()
        definition = sqlite_ann.AnnDefinition(*json.loads(line))._replace(**values)
        writer.execute("UPDATE derived SET definition = ? WHERE name = 'ann'", (json.dumps(definition),))
        store._count_change(writer)
    store.commit()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda slots: slots[::-1], "has other vectors than the store"),
        (lambda slots: slots[:-100], "does not hold each of 6000 slots once"),
        (lambda slots: np.concatenate([slots, slots[:100]]), "has slots beyond 6000"),
    ],
)
def test_a_sound_file_of_other_slots_is_found_by_verify(
    store: SqliteStore, path: Path, changed: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    file = path.with_name("store.sqlite-ann-2")
    definition = sqlite_search.VectorsDefinition(2, WIDTH, False)
    slots = np.array(sqlite_search.vector_file(path, definition).map(N))
    lists, crc = build_ann(np.ascontiguousarray(changed(slots)), file)
    enter(store, lists=lists, crc=crc)
    (problem,) = store.verify().problems
    assert message in problem
    found = store.search_vectors(QUERIES[0], 10)
    right = exact(QUERIES[0], IDS, VECTORS, N)
    assert found == pytest.approx({id_: right[id_] for id_ in found}, abs=1e-6), "no score is wrong"


def test_an_entry_that_fits_nothing_is_no_error(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    right = store.search_vectors(QUERIES[0], 5)
    enter(store, slots=N + 1)
    assert store.search_vectors(QUERIES[0], 5) == pytest.approx(right, abs=1e-6)
    assert "covers 6001 of 6000 vectors" in caplog.text
    assert "covers 6001" in store.verify().problems[0]
    with store._transaction() as writer:
        writer.execute("UPDATE derived SET definition = '[1, null]' WHERE name = 'ann'")
    store.commit()
    assert store.search_vectors(QUERIES[0], 5) == pytest.approx(right, abs=1e-6)
    assert "entry of the index is damaged" in caplog.text
    assert "entry of the index is damaged" in store.verify().problems[0]
    store.compact()
    assert store.verify().problems == []


def test_one_that_a_writer_did_not_know_of_is_not_used(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    with store._transaction() as writer:  # as a version would do that has no such index
        writer.execute("UPDATE counters SET commits = commits + 1")
        store._changed = True
    store.commit()
    assert recall(store, IDS, VECTORS, None) == 1
    assert len(caplog.records) == 1
    assert "not made from the vectors that there are now" in caplog.text
    assert len(store.verify().problems) == 1


def test_a_full_disk_leaves_what_there_was(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    def full(index: object, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("no space left")

    before = store.search_vectors(QUERIES[0], 100)
    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(StoreFullError, match=r"-ann-3: cannot be written.*no space left"):
        store.build_ann()
    monkeypatch.undo()
    assert store.search_vectors(QUERIES[0], 100) == before
    assert store.verify().problems == []
    path.with_name("store.sqlite-ann-9.new").write_bytes(b"of a process that was killed")
    store.compact()
    assert len(files(path)) == 2
    assert store.verify().problems == []


# Without the extra, and from other places


def test_without_the_extra_a_store_answers_exactly_and_keeps_the_wish(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "faiss", None)
        with pytest.raises(ImportError, match=r"pip install 'mice-st\[ann\]'"):
            store.build_ann()
        assert recall(store, IDS, VECTORS, None) == 1
        assert len(caplog.records) == 1
        assert "mice-st[ann]" in caplog.text
        assert store.verify().problems == [], "the file is as it was written"
        flip(path.with_name("store.sqlite-ann-2"))
        assert "CRC-32" in store.verify().problems[0]
        caplog.clear()
        store.compact()
        assert "every vector will be looked at" in caplog.text
        assert files(path) == ["store.sqlite-vectors-3"]
        assert recall(store, IDS, VECTORS, None) == 1
    store.compact()
    assert files(path) == ["store.sqlite-ann-4", "store.sqlite-vectors-4"]
    assert store.verify().problems == []


@pytest.mark.parametrize("seed", range(3))
def test_small_stores_are_exact_after_any_history(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "DEAD_SLOTS", 5)
    monkeypatch.setattr(sqlite_writer, "has_ann", lambda writer: True)
    compact = SqliteStore.compact

    def wanted(store: SqliteStore) -> object:
        with store._transaction() as writer:
            sqlite_ann.want_ann(writer)
            store._end(commit=True)
        return compact(store)

    monkeypatch.setattr(SqliteStore, "compact", wanted)
    assert check_history(tmp_path, seed) > 0
    assert list(tmp_path.glob(f"old{seed}.sqlite-ann-*"))


def test_a_copy_and_a_repaired_file_have_it_too(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    store.delete(IDS[:3])
    store.commit()
    store.backup(str(tmp_path / "copy.sqlite"))
    (copied,) = tmp_path.glob("copy.sqlite-ann-*")
    assert copied.name != "copy.sqlite-ann-2", "a copy put over the store must not overwrite what somebody has mapped"
    assert file_crc(copied) == file_crc(path.with_name("store.sqlite-ann-2"))
    with SqliteStore(tmp_path / "copy.sqlite", None, read_only=True) as copy:
        assert copy.verify().problems == []
        assert copy.search_vectors(QUERIES[0], 100) == store.search_vectors(QUERIES[0], 100)
    path.write_bytes(path.read_bytes() + b"\0" * 100)  # ends within a page: damaged, and all rows can be read
    assert salvage_sqlite(store) == []
    store.rebuild_first_stage()
    assert [name.rpartition("-")[0] for name in files(path)] == ["store.sqlite-ann", "store.sqlite-vectors"]
    assert store.verify().problems == []


def test_what_cannot_have_one_says_so(tmp_path: Path, path: Path) -> None:
    with SqliteStore(tmp_path / "empty.sqlite", FINGERPRINT, read_only=False) as empty:
        with pytest.raises(StoreError, match="no document has a pooled vector"):
            empty.build_ann()
        with pytest.raises(StoreError, match="only SQLite stores have an approximate index"):
            Store.build_ann(empty)
        assert not empty.drop_ann()
        put(empty, IDS[:1], VECTORS[:1], [0])
        empty.delete(IDS[:1])
        with pytest.raises(StoreError, match="commit before"):
            empty.build_ann()
        with pytest.raises(StoreError, match="commit before"):
            empty.drop_ann()
    with SqliteStore(path, None, read_only=True) as reader, pytest.raises(StoreReadOnlyError):
        reader.build_ann()


def test_the_command_line_makes_and_removes_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        assert cli.main(["store", *arguments]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    index = ("index", str(path))
    assert "approximate index removed" in run(*index, "--no-ann")
    assert "there was no approximate index" in run(*index, "--no-ann")
    assert files(path) == ["store.sqlite-vectors-2"]
    assert "approximate index of 6,000 vectors made" in run(*index, "--ann")
    assert files(path) == ["store.sqlite-ann-3", "store.sqlite-vectors-3"]
    assert "run it twice" in run(*index, "--ann", "--tokenizer", "trigram", status=2)
    assert "info: takes no --ann" in run("info", str(path), "--ann", status=2)


def test_faiss_has_the_threads_of_torch_while_it_works_and_its_own_afterwards() -> None:
    class Counting:
        threads = 5
        seen: list[int] = []

        def omp_get_max_threads(self) -> int:
            return self.threads

        def omp_set_num_threads(self, number: int) -> None:
            self.threads = number
            self.seen.append(number)

    faiss = Counting()
    with ann._threads(faiss):
        assert faiss.threads == torch.get_num_threads()
    assert faiss.seen == [torch.get_num_threads(), 5]
