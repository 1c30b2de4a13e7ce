"""Suites of mteb's tasks, collections as tasks, and the candidates that they are given."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mice_st.data.collection import Collection, write_beir
from mice_st.data.first_stage import BM25
from mice_st.data.python_docs import load_python_docs
from mice_st.data.runs import write_run
from mice_st.evaluation.mteb_candidates import find_candidates
from mice_st.evaluation.mteb_run import FixedRun, measure
from mice_st.evaluation.mteb_tasks import MTEB_SUITES, SuiteTask, load_tasks, make_task
from tests.evaluation.made import make_collection

pytest.importorskip("mteb")


def suite_task(made: Collection) -> SuiteTask:
    return SuiteTask(make_task(made), made.name, made, None)


@pytest.fixture
def entry() -> SuiteTask:
    return suite_task(make_collection("tiny", 0))


def test_every_suite_names_tasks_that_mteb_re_ranks() -> None:
    import mteb
    from mteb.abstasks import AbsTaskRetrieval

    for suite, groups in MTEB_SUITES.items():
        for name in groups if suite != "python-docs" else ():
            task = mteb.get_task(name)
            assert isinstance(task, AbsTaskRetrieval), name
            assert task.metadata.modalities == ["text"], name
            assert len(task.eval_splits) == 1, name
    nano = {task.metadata.name for task in mteb.get_benchmark("NanoBEIR").tasks}
    assert set(MTEB_SUITES["nanobeir"]) == nano
    english = mteb.get_benchmark("MTEB(eng, v2)").tasks
    reranking = {task.metadata.name for task in english if task.metadata.type == "Reranking"}
    assert set(MTEB_SUITES["mteb-eng-v2-rerank"]) == reranking
    beir = {task.metadata.name for task in mteb.get_benchmark("BEIR").tasks}
    assert beir - set(MTEB_SUITES["paper"]) == {"CQADupstackRetrieval"}
    assert [len(MTEB_SUITES[name]) for name in ("paper-id", "paper-ood", "paper")] == [3, 13, 16]


def test_a_folder_and_the_python_docs_become_tasks(tmp_path: Path) -> None:
    made = make_collection("tiny", 0)
    write_beir(made, tmp_path / "tiny", "dev")
    (entry,) = load_tasks(f"folder:{tmp_path / 'tiny'}:dev")
    assert entry.collection == made
    data = entry.task.dataset["default"][entry.split]
    assert dict(zip(data["corpus"]["id"], data["corpus"]["text"], strict=True)) == made.corpus
    assert data["relevant_docs"] == made.qrels
    (docs,) = load_tasks("python-docs")
    assert docs.collection == load_python_docs("test")
    other = make_task(make_collection("tiny", 1))
    revisions = {task.metadata.dataset["revision"] for task in (entry.task, make_task(made), other)}
    assert len(revisions) == 2, "the revision of a task is its content"


@pytest.mark.parametrize(
    ("suite", "error", "message"),
    [
        ("nonsense", ValueError, "suite: there is no 'nonsense'; there are dev, paper, paper-id, paper-ood, nanobeir"),
        ("STS12", ValueError, "STS12 is a task of type STS, which is not re-ranking of texts"),
        ("folder:absent", FileNotFoundError, "absent: there is no such folder"),
    ],
)
def test_suites_that_there_are_not(suite: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        next(load_tasks(suite))


def test_a_suite_of_the_hub_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from mteb.abstasks import AbsTaskRetrieval

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(AbsTaskRetrieval, "load_data", refuse)
    message = (
        r"NanoArguAnaRetrieval: its dataset mteb/NanoArguAnaRetrieval is not in the Hub's cache and cannot be read"
    )
    with pytest.raises(OSError, match=message):
        next(load_tasks("nanobeir"))


def test_no_judged_query() -> None:
    made = make_collection("tiny", 0)
    with pytest.raises(ValueError, match="tiny: no query is judged"):
        make_task(Collection("tiny", made.corpus, made.queries, {}))


def test_candidates_of_bm25_a_run_file_and_mteb(entry: SuiteTask, tmp_path: Path) -> None:
    made = entry.collection
    expected = BM25(made.corpus).search(made.queries, 5)
    found = find_candidates(entry, "bm25", 5, tmp_path)
    assert found.candidates == expected
    # Scores that fall with the rank: equal ones would be ordered by trec_eval's rule, which is not BM25's.
    deep = BM25(made.corpus).search(made.queries, 9)
    falling = {query: {item: -float(place) for place, item in enumerate(scores)} for query, scores in deep.items()}
    write_run(falling, tmp_path / "tiny.trec")
    for first_stage in (tmp_path / "tiny.trec", tmp_path):  # a file, or a folder with one for each task
        read = find_candidates(entry, str(first_stage), 5, tmp_path).candidates
        assert {query: list(scores) for query, scores in read.items()} == {
            query: list(scores) for query, scores in expected.items()
        }
    stemmed = find_candidates(entry, "mteb/baseline-bm25s", 5, tmp_path)
    assert all(len(scores) == 5 for scores in stemmed.candidates.values())
    for query_id, scores in stemmed.candidates.items():
        # No word of these texts has another stem, so that the orders can only differ where scores are equal.
        ours = BM25(made.corpus).search({query_id: made.queries[query_id]}, 12)[query_id]
        assert [ours[item] for item in scores] == pytest.approx(list(expected[query_id].values()), abs=1e-5)
    keys = {find_candidates(entry, "bm25", depth, tmp_path).key for depth in (3, 5)} | {found.key}
    assert len(keys) == 2


def test_a_search_of_mteb_is_kept_for_this_content_and_depth(
    entry: SuiteTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_candidates(entry, "mteb/baseline-bm25s", 5, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("mice_st.evaluation.mteb_candidates.search_with", lambda *_: pytest.fail("it was found before"))
        assert find_candidates(entry, "mteb/baseline-bm25s", 5, tmp_path) == found
    assert all(
        len(scores) == 3 for scores in find_candidates(entry, "mteb/baseline-bm25s", 3, tmp_path).candidates.values()
    )
    made = entry.collection
    changed = suite_task(Collection("tiny", made.corpus | {"d0": "berlin city"}, made.queries, made.qrels))
    assert find_candidates(changed, "mteb/baseline-bm25s", 5, tmp_path).key != found.key


def test_candidates_that_a_task_brings_along_are_taken_whole(tmp_path: Path) -> None:
    made = make_collection("tiny", 0)
    entry = suite_task(made)
    own = {query: [f"d{place}" for place in range(7)] for query in made.queries}
    entry.task.dataset["default"]["test"]["top_ranked"] = own
    found = find_candidates(SuiteTask(entry.task, "tiny", made, own), "bm25", 2, tmp_path)
    assert {query: list(scores) for query, scores in found.candidates.items()} == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: "q9 Q0 d1 1 2.0 x\n", r"tiny: bad.trec has no candidate for any query"),
        (lambda run: run.replace(" d1 ", " d99 "), r"candidates of query 'q\d': document 'd99' is not in the corpus"),
        (lambda run: run + run, r"bad.trec, line 31: document '\w+' is there twice for query 'q0', first in line 1"),
        (lambda run: run + "q0 Q0 d11 99 nan x\n", r"the score of document 'd11' for query 'q0' is nan"),
        (lambda run: "", r"tiny: bad.trec has no candidate for any query"),
    ],
)
def test_bad_run_files(entry: SuiteTask, tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    file = tmp_path / "bad.trec"
    write_run(BM25(entry.collection.corpus).search(entry.collection.queries, 5), file)
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=message):
        find_candidates(entry, str(file), 5, tmp_path)


def test_queries_of_a_run_that_are_not_judged_or_not_drawn_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_collection("tiny", 0)
    write_beir(made, tmp_path / "tiny", "test")
    file = tmp_path / "run.trec"
    run = BM25(made.corpus).search(made.queries, 12)
    run["q9"] = {"nowhere": 1.0}
    del run["q1"]
    write_run(run, file)
    (whole,) = load_tasks(f"folder:{tmp_path / 'tiny'}")
    found = find_candidates(whole, str(file), 12, tmp_path)
    assert found.counts == {"run_queries_passed_over": 1}
    assert found.queries_without_candidates == ["q1"]
    assert (
        "tiny: 1 of 6 queries have no candidates and score 0; the first: 'q1'; "
        "1 queries of run.trec are not judged here, or were not drawn, and are passed over" in caplog.text
    )
    (drawn,) = load_tasks(f"folder:{tmp_path / 'tiny'}", queries=2, seed=0)
    few = find_candidates(drawn, str(file), 12, tmp_path)
    assert few.candidates == {query: found.candidates[query] for query in drawn.collection.queries}
    assert few.counts["run_queries_passed_over"] == len(run) - sum(map(bool, few.candidates.values()))


ARGUANA = Collection(
    "debate",
    {"a1": "Food meat is safe", "a2": "meat is not safe", "a3": "meat is bad", "7": "meat meat meat"},
    {"a1": "meat is safe", "7": "meat is bad"},
    {"a1": {"a2": 1}, "7": {"a3": 1}},
    {"a1": "meat is safe"},
)


def test_a_document_that_is_the_query_is_no_candidate_of_it(tmp_path: Path) -> None:
    write_beir(ARGUANA, tmp_path / "debate", "test")
    falling = {query: {item: -float(place) for place, item in enumerate(ARGUANA.corpus)} for query in ARGUANA.queries}
    write_run(falling, tmp_path / "run.trec")
    (entry,) = load_tasks(f"folder:{tmp_path / 'debate'}")
    for first_stage in ("bm25", str(tmp_path / "run.trec"), "mteb/baseline-bm25s"):
        found = find_candidates(entry, first_stage, 2, tmp_path)
        assert "a1" not in found.candidates["a1"], first_stage
        assert [len(scores) for scores in found.candidates.values()] == [2, 2], first_stage
        assert found.counts == {"own_documents_left_out": 1, "identical_ids_kept": 1}
        every = find_candidates(entry, first_stage, 3, tmp_path, ignore_identical_ids=True)
        assert [query in scores for query, scores in every.candidates.items()] == [False, False], first_stage
        assert every.counts == {"own_documents_left_out": 2}
    assert "7" in find_candidates(entry, "bm25", 3, tmp_path).candidates["7"]


def test_of_mtebs_own_tasks_mtebs_rule_is_followed(tmp_path: Path) -> None:
    entry = SuiteTask(make_task(ARGUANA), "debate", ARGUANA, None, is_mtebs=True)
    assert "a1" in find_candidates(entry, "bm25", 4, tmp_path).candidates["a1"]
    entry.task.ignore_identical_ids = True
    found = find_candidates(entry, "bm25", 4, tmp_path).candidates
    assert [query in scores for query, scores in found.items()] == [False, False]


def test_a_task_with_a_document_twice_is_refused() -> None:
    from datasets import Dataset

    from mice_st.evaluation.mteb_tasks import _suite_tasks

    task = make_task(make_collection("tiny", 0))
    rows = {"id": ["d0", "d1", "d0"], "text": ["x", "y", "z"]}
    task.dataset["default"]["test"]["corpus"] = Dataset.from_dict(rows)
    with pytest.raises(ValueError, match=r"document 'd0' is in the corpus twice, again in row 2"):
        next(_suite_tasks(task, "g"))


def test_an_unknown_first_stage(entry: SuiteTask, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first_stage: 'nobody/nothing' is neither bm25, nor a run file"):
        find_candidates(entry, "nobody/nothing", 5, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*tiny\.trec, the run file of task tiny"):
        find_candidates(entry, str(tmp_path), 5, tmp_path)


def test_a_query_without_candidates_counts_as_zero(
    entry: SuiteTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mteb.models import ModelMeta

    file = tmp_path / "run.trec"
    whole = BM25(entry.collection.corpus).search(entry.collection.queries, 12)
    write_run({query: scores for query, scores in whole.items() if query != "q2"}, file)
    found = find_candidates(entry, str(file), 12, tmp_path)
    assert found.queries_without_candidates == ["q2"]
    assert "tiny: 1 of 6 queries have no candidates and score 0; the first: 'q2'" in caplog.text
    perfect = {
        query: {item: float(item == f"d{query[1:]}") for item in scores} for query, scores in found.candidates.items()
    }
    measured = measure(entry, found, FixedRun(perfect, ModelMeta.create_empty({"name": "local/run", "revision": "1"})))
    assert measured.figures.ndcg_at_10 == pytest.approx(5 / 6)
    assert measured.ceiling.ndcg_at_10 == pytest.approx(5 / 6)
    assert json.loads(json.dumps(measured.result))["scores"]["test"][0]["ndcg_at_10"] == pytest.approx(5 / 6, abs=1e-5)
