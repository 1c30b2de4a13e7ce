"""MICE in mteb: the stock wrapper's scores, each document encoded once, nothing left over in memory."""

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.evaluation.mteb_candidates import find_candidates
from mice_st.evaluation.mteb_model import MiceSearch, load, load_for_mteb, make_model_meta
from mice_st.evaluation.mteb_run import main_score, measure, rerank_only
from mice_st.evaluation.mteb_tasks import SuiteTask, make_task
from mice_st.evaluation.suites import CandidateSet
from tests.evaluation.made import make_collection
from tests.text_pairs import is_order_of

pytest.importorskip("mteb")


@pytest.fixture
def entry() -> SuiteTask:
    """24 documents, two pairs of them with one text, and a query that no document matches."""
    made = make_collection("tiny", 0, documents=24, queries=9)
    corpus = made.corpus | {"d22": made.corpus["d0"], "d23": made.corpus["d1"]}
    queries = made.queries | {"q8": "zzz"}
    collection = Collection("tiny", corpus, queries, made.qrels)
    return SuiteTask(make_task(collection), "tiny", collection, None)


@pytest.fixture
def candidates(entry: SuiteTask, tmp_path: Path) -> CandidateSet:
    return find_candidates(entry, "bm25", 10, tmp_path)


class Counting(MiceCrossEncoder):
    """Remembers the texts that it encodes."""

    encoded: list[str]

    def encode_documents(self, documents: Any, *args: Any, **kwargs: Any) -> Any:
        self.encoded += documents
        return super().encode_documents(documents, *args, **kwargs)


@pytest.mark.parametrize("tokens_at_once", [2**20, 1])
def test_agrees_with_the_stock_wrapper(
    entry: SuiteTask,
    candidates: CandidateSet,
    mice_folder: Path,
    stock: CrossEncoder,
    tokens_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mice_st.evaluation.blocks.DOCUMENTS_AT_ONCE", 5)  # several blocks
    theirs = measure(entry, candidates, stock)
    ours = measure(entry, candidates, load(str(mice_folder), device="cpu", tokens_at_once=tokens_at_once))
    assert ours.run.keys() == theirs.run.keys() == set(entry.collection.queries)
    for query_id, scores in theirs.run.items():
        assert ours.run[query_id] == pytest.approx(scores, abs=1e-5)
        order = list(ours.run[query_id])
        assert is_order_of([list(scores).index(item) for item in order], list(scores.values()))
    # Near ties may stand in either order, and figures count places: equal scores would have equal figures.
    assert ours.result["scores"]["test"][0].keys() == theirs.result["scores"]["test"][0].keys()
    assert main_score(entry, ours.result) == pytest.approx(ours.figures.ndcg_at_10, abs=1e-5)
    assert 0 < ours.figures.ndcg_at_10 < ours.ceiling.ndcg_at_10 < 1


def test_each_document_is_encoded_once(
    entry: SuiteTask, candidates: CandidateSet, mice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mice_st.evaluation.blocks.DOCUMENTS_AT_ONCE", 5)
    model = Counting(str(mice_folder), device="cpu")
    model.encoded = []
    measure(entry, candidates, MiceSearch(model, tokens_at_once=1))
    wanted = {entry.collection.corpus[item] for found in candidates.candidates.values() for item in found}
    assert len(model.encoded) == len(wanted)
    assert set(model.encoded) == wanted
    assert len(wanted) < sum(map(len, candidates.candidates.values()))


def test_mteb_drives_it_by_search(mice: MiceCrossEncoder) -> None:
    from mteb.models import CrossEncoderProtocol, SearchProtocol

    model = MiceSearch(mice)
    assert isinstance(model, SearchProtocol)
    assert not isinstance(model, CrossEncoderProtocol)


def test_without_candidates_and_with_unknown_ones(
    entry: SuiteTask, candidates: CandidateSet, mice: MiceCrossEncoder
) -> None:
    with pytest.raises(ValueError, match=r"task tiny-\w+: MICE re-ranks and needs candidates"):
        measure_without_candidates(entry, mice)
    candidates.candidates["q1"]["d99"] = 0.0
    with pytest.raises(ValueError, match=r"candidates of query 'q1': document 'd99' is not in the corpus"):
        measure(entry, candidates, MiceSearch(mice))


def measure_without_candidates(entry: SuiteTask, mice: MiceCrossEncoder) -> None:
    from mice_st.evaluation.mteb_candidates import run_mteb

    run_mteb(entry, MiceSearch(mice), 8)


def test_candidates_that_a_model_leaves_out_are_refused(entry: SuiteTask, candidates: CandidateSet) -> None:
    from mice_st.evaluation.mteb_run import FixedRun

    partial = {query_id: dict(list(found.items())[1:]) for query_id, found in candidates.candidates.items()}
    meta = make_model_meta_of_nothing()
    with pytest.raises(ValueError, match=r"tiny: 8 candidates were not scored; the first: query 'q0'"):
        measure(entry, candidates, FixedRun(partial, meta))
    broken = {query_id: dict.fromkeys(found, float("nan")) for query_id, found in candidates.candidates.items()}
    with pytest.raises(ValueError, match=r"query 'q0', document '\w+': the score is nan"):
        measure(entry, candidates, FixedRun(broken, meta))


def make_model_meta_of_nothing() -> Any:
    from mteb.models import ModelMeta

    return ModelMeta.create_empty({"name": "local/run", "revision": "1"})


def test_the_first_stage_is_a_system_like_any_other(entry: SuiteTask, candidates: CandidateSet) -> None:
    from mice_st.evaluation.metrics import evaluate_run
    from mice_st.evaluation.mteb_run import FixedRun

    measured = measure(entry, candidates, FixedRun(candidates.candidates, make_model_meta_of_nothing()))
    assert measured.figures == evaluate_run(entry.collection.qrels, candidates.candidates)
    assert measured.figures.missing_queries == 1
    assert candidates.queries_without_candidates == ["q8"]


def test_meta_says_what_the_model_is(mice_folder: Path, mice: MiceCrossEncoder) -> None:
    model, meta = load_for_mteb(str(mice_folder), "cpu")
    assert isinstance(model, MiceSearch)
    assert meta.name == f"local/{mice_folder.name}"
    assert meta.revision == MiceSearch(mice).mteb_model_meta.revision
    assert meta.n_parameters == sum(parameter.numel() for parameter in mice.parameters())
    assert meta.model_type == ["cross-encoder"]
    assert meta.experiment_kwargs is None
    assert make_model_meta(mice, "org/mice", "abc", "int8").experiment_kwargs == {"codec": "int8"}
    released = make_model_meta(mice, "org/mice", "abc", license="apache-2.0", training_datasets={"MSMARCO"})
    assert (released.name, released.license, released.training_datasets) == ("org/mice", "apache-2.0", {"MSMARCO"})
    with pytest.raises(ValueError, match="ModelMeta has no field 'licence'"):
        make_model_meta(mice, "org/mice", "abc", licence="apache-2.0")


def test_meta_loads_the_model_again(
    entry: SuiteTask, candidates: CandidateSet, mice: MiceCrossEncoder, mice_folder: Path
) -> None:
    meta = make_model_meta(mice, str(mice_folder), None).model_copy(update={"name": str(mice_folder)})
    again = meta.load_model(device="cpu")
    rerank_only(entry, candidates)
    assert measure(entry, candidates, again).run == measure(entry, candidates, MiceSearch(mice)).run
