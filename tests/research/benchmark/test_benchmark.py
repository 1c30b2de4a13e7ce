"""The benchmark on tiny models: what it compares is the same ranking, and its report is complete."""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from mice_st.evaluation.cost import use_threads
from mice_st.research.benchmark.corpus import Corpus
from mice_st.research.benchmark.models import Models, ModelSize
from mice_st.research.benchmark.options import BenchOptions
from mice_st.research.benchmark.peers import PEERS, export_int8
from mice_st.research.benchmark.plan import SYSTEMS, blocks
from mice_st.research.benchmark.runner import largest_difference, run_benchmark
from mice_st.research.benchmark.systems import (
    MICE_SYSTEMS,
    Case,
    Ranking,
    Skipped,
    score_obviously,
    states_of,
    to_ranking,
)
from mice_st.research.benchmark.targets import compute_targets
from mice_st.research.benchmark.timing import interleave
from mice_st.research.benchmark.workloads import Words, document_lengths

TINY = ModelSize(width=32, inner=64, heads=4, layers=2, below=1, above=2, narrow=16, matrix=64)
RATIOS = ["stored fp16", "nothing stored", "narrow fp16", "store read", "interaction layers"]


@pytest.fixture(scope="module")
def case(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    models = Models(tmp_path_factory.mktemp("models"), TINY, encoder_folder)
    models.folder.joinpath("stores").mkdir()
    corpus = Corpus(models, "msmarco", 6, models.folder / "stores")
    with ExitStack() as stack:
        yield Case(models, corpus, Words(models.tokenizer).texts([9], 1)[0], 1, stack)


@pytest.mark.parametrize("system", [system for system in SYSTEMS if system.variant], ids=lambda system: system.name)
def test_every_mice_system_ranks_as_the_obvious_path(system: Any, case: Case) -> None:
    documents = case.corpus.documents(states_of(system.variant), system.codec)
    scores = score_obviously(case.models.mice(system.variant), case.query, documents)
    ranking = system.prepare(case)()
    assert scores.std() > 1e-3, "nearly equal scores would prove nothing"
    assert [number for number, _ in ranking] == [number for number, _ in to_ranking(scores)]
    assert largest_difference(ranking, scores) < (1e-5 if system.exact else 1e-2)
    if system.slow:
        assert len(system.prepare(case.head(2))()) == 2, "a warm-up reads fewer documents"


@pytest.mark.parametrize("name", ["cross-encoder", "colbert"])
def test_peers_rank_every_document_once(name: str, case: Case) -> None:
    system = next(peer for peer in PEERS if peer.name == name)
    ranking = system.prepare(case)()
    assert sorted(number for number, _ in ranking) == list(range(6))
    assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)


def test_colbert_scores_are_maxsim(case: Case) -> None:
    system = next(peer for peer in PEERS if peer.name == "colbert")
    query = case.models.colbert.encode_query([case.query])[0]
    vectors, mask = case.corpus.vectors
    for number, score in system.prepare(case)():
        expected = (query @ vectors[number][mask[number]].T).max(dim=1).values.sum().item()
        assert score == pytest.approx(expected, abs=1e-5)


def test_int8_cross_encoder_is_skipped_with_a_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(Skipped, match=r"mice-st\[bench\]"):
        next(peer for peer in PEERS if peer.name == "cross-encoder-onnx-int8").prepare(case)


@pytest.mark.slow
def test_int8_cross_encoder_scores_nearly_as_float32(case: Case) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    model = case.models.cross_encoder
    logits = model.predict([(case.query, text) for text in case.texts], activation_fn=torch.nn.Identity())
    ranking = next(peer for peer in PEERS if peer.name == "cross-encoder-onnx-int8").prepare(case)()
    assert export_int8(case.models).stat().st_size > 0
    assert max(abs(float(logits[number]) - score) for number, score in ranking) < 0.2 * float(logits.std()) + 0.1


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_tiny_run_reports_every_target(quick: bool, encoder_folder: Path, tmp_path: Path) -> None:
    options = BenchOptions(
        quick,
        documents_per_query=[3, 5],
        lengths=["msmarco", "256"],
        query_tokens=[9],
        repetitions=1,
        slow_repetitions=1,
    )
    report = run_benchmark(options, TINY, encoder_folder)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert {"targets", "rows", "machine"} <= set(found)
    for target in found["targets"]:
        assert set(target) == {"name", "value", "target", "met"}
        assert math.isfinite(target["value"])
        assert target["target"][:3] in (">= ", "<= ")
        assert target["met"] is (
            target["value"] >= float(target["target"][3:])
            if target["target"].startswith(">=")
            else target["value"] <= float(target["target"][3:])
        )
    assert len(found["targets"]) == 15
    by_name = {target["name"]: target for target in found["targets"]}
    assert by_name["scores: largest difference from the obvious path, float32 arithmetic"]["met"]
    assert all(row["ms_per_query"] > 0 for row in found["rows"])
    expected = {system.name for system in SYSTEMS}
    measured = {row["system"] for row in found["rows"]} | {entry["system"] for entry in found["skipped"]}
    assert measured <= expected
    assert quick or measured == expected
    assert {row["threads"] for row in found["rows"]} == {1, 2}
    assert found["machine"]["versions"]["torch"] == torch.__version__
    for text in (report.to_markdown(), report.targets_to_markdown()):
        assert all(target["name"] in text for target in found["targets"])
    report.save_picture(tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def row(system: str, lengths: str, threads: int, milliseconds: float, documents: int = 100) -> dict[str, Any]:
    where = {"lengths": lengths, "threads": threads, "documents": documents, "query_tokens": 9}
    return {"system": system, "ms_per_query": milliseconds} | where


def test_targets_are_met_on_the_right_side_only() -> None:
    options = BenchOptions()
    rows = [row("cross-encoder", "msmarco", 1, 4500.0), row("mice-wide-fp16", "msmarco", 1, 100.0)]
    rows += [row("mice-wide-fp16", "msmarco", 1, 1001.0, documents=1000)]
    rows += [row("mice-narrow-fp16", "256", 1, 11.0), row("colbert", "256", 1, 10.0)]
    targets = compute_targets(options, rows, [], 2e-5, {"above_model_mb": 150.0})
    by_name = {target["name"]: target for target in targets}
    one = "stored fp16 states: times faster than the cross-encoder, 100 documents, MS MARCO lengths, 1 thread"
    assert by_name[one] == {"name": one, "value": 45.0, "target": ">= 45", "met": True}
    verdicts = {
        "1000 documents: times the cost of 100, 100 documents, MS MARCO lengths, 1 thread": False,
        "narrow fp16: time over ColBERT's, 100 documents, 256 tokens, 1 thread": True,
        "scores: largest difference from the obvious path, float32 arithmetic": False,
        "peak memory of ranking 1000 stored documents: MB above the model": True,
        "nothing stored: times faster than the cross-encoder, 100 documents, 256 tokens, 1 thread": None,
    }
    assert {name: by_name[name]["met"] for name in verdicts} == verdicts
    assert all(any(target["name"].startswith(start) for target in targets) for start in RATIOS)


def test_turns_are_spread_evenly() -> None:
    assert interleave([1, 3]) == [1, 0, 1, 1]
    assert interleave([2, 2]) == [0, 1, 0, 1]
    assert interleave([]) == []


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_lengths_have_the_same_mean_for_few_and_many() -> None:
    for count in (100, 1000):
        lengths = document_lengths("msmarco", count)
        assert len(lengths) == count
        assert sum(lengths) / count == pytest.approx(75, abs=0.5)
        assert max(lengths) <= 180
    assert document_lengths("256", 2) == [256, 256]
    with pytest.raises(ValueError, match="'long' is neither"):
        document_lengths("long", 2)


def test_texts_have_the_tokens_asked_for_and_repeat(case: Case) -> None:
    words = Words(case.models.tokenizer)
    texts = words.texts([3, 9, 40], 5)
    assert [len(ids) for ids in case.models.tokenizer(texts)["input_ids"]] == [3, 9, 40]
    assert texts == words.texts([3, 9, 40], 5)
    assert texts != words.texts([3, 9, 40], 6)


def test_a_ranking_that_forgets_a_document_is_an_error() -> None:
    incomplete: Ranking = [(0, 1.0), (0, 0.5)]
    with pytest.raises(ValueError, match="each of 2 documents once"):
        largest_difference(incomplete, torch.zeros(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"documents_per_query": []}, "documents_per_query"),
        ({"threads": [0]}, "threads"),
        ({"query_tokens": [2]}, "query_tokens"),
        ({"repetitions": 0}, "repetitions"),
        ({"lengths": []}, "lengths"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchOptions(**fields)


def test_quick_measures_the_lengths_of_the_targets() -> None:
    found = blocks(BenchOptions(quick=True, lengths=["512"]))
    assert {(block.lengths, block.query_tokens) for block in found} == {("msmarco", 9), ("256", 9)}
    assert len(MICE_SYSTEMS) + len(PEERS) == len(SYSTEMS)
