"""mteb keeps results by the names of model and task and the model's revision: what changed is measured anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.evaluation.mteb_model import MiceSearch, load
from mice_st.evaluation.mteb_run import rerank_only
from mice_st.evaluation.mteb_tasks import SuiteTask, make_task
from mice_st.evaluation.suites import CandidateSet
from tests.evaluation.made import make_collection

mteb = pytest.importorskip("mteb")

TINY = make_collection("tiny", 0)


class Evaluate:
    """``mteb.evaluate`` over one cache; counts what it asks of a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.searches = 0

    def __call__(self, model: MiceSearch, made: Collection = TINY) -> float:
        task = make_task(made)
        candidates = CandidateSet("tiny", made, BM25(made.corpus).search(made.queries, 8), "key")
        rerank_only(SuiteTask(task, "tiny", made, None), candidates)
        search = model.search

        def count(*arguments: Any, **named: Any) -> Any:
            self.searches += 1
            return search(*arguments, **named)

        model.search = count  # type: ignore[method-assign]
        result = mteb.evaluate(model, task, cache=mteb.ResultCache(self.folder), show_progress_bar=False)
        model.search = search  # type: ignore[method-assign]
        return result.task_results[0].get_score()


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    return Evaluate(tmp_path / "cache")


@pytest.fixture
def copies(mice_folder: Path, tmp_path: Path, shake: Callable) -> tuple[Path, Path]:
    """``A/final`` and ``B/final``, which score differently."""
    folders = (tmp_path / "A" / "final", tmp_path / "B" / "final")
    for folder in folders:
        shutil.copytree(mice_folder, folder)
    change(folders[1], shake, 9)
    return folders


def change(folder: Path, shake: Callable, seed: int) -> None:
    model = MiceCrossEncoder(str(folder), device="cpu")
    shake(model, seed=seed, scale=0.5)
    model.save(str(folder))


def test_the_same_model_is_measured_once(evaluate: Evaluate, copies: tuple[Path, Path]) -> None:
    first = evaluate(load(str(copies[0]), device="cpu"))
    # Another object, another place on the disk: the same scores.
    moved = shutil.copytree(copies[0], copies[0].parents[1] / "C" / "final")
    assert evaluate(load(str(moved), device="cpu")) == first
    assert evaluate(MiceSearch(MiceCrossEncoder(str(copies[0]), device="cpu"))) == first
    assert evaluate.searches == 1


def test_two_folders_of_one_name(evaluate: Evaluate, copies: tuple[Path, Path], tmp_path: Path) -> None:
    figures = [evaluate(load(str(folder), device="cpu")) for folder in copies]
    assert evaluate.searches == 2
    fresh = Evaluate(tmp_path / "fresh")
    assert figures[1] == fresh(load(str(copies[1]), device="cpu"))


def test_a_model_that_is_trained_again_in_its_place(
    evaluate: Evaluate, copies: tuple[Path, Path], shake: Callable, tmp_path: Path
) -> None:
    evaluate(load(str(copies[0]), device="cpu"))
    change(copies[0], shake, 5)
    again = evaluate(load(str(copies[0]), device="cpu"))
    assert evaluate.searches == 2
    assert again == Evaluate(tmp_path / "fresh")(load(str(copies[0]), device="cpu"))


def test_a_model_that_is_trained_in_memory(evaluate: Evaluate, copies: tuple[Path, Path], shake: Callable) -> None:
    search = load(str(copies[0]), device="cpu")
    evaluate(search)
    for name, parameter in search.model.mice.named_parameters():
        if "interaction" in name or "classifier" in name:  # what no document passes through
            parameter.data.mul_(-1.5)
            break
    evaluate(search)
    assert evaluate.searches == 2


def test_changed_judgements_and_a_changed_corpus(evaluate: Evaluate, mice_folder: Path, tmp_path: Path) -> None:
    model = load(str(mice_folder), device="cpu")
    evaluate(model)
    judged = {query: {f"d{(int(query[1:]) + 5) % 12}": 1} for query in TINY.queries}
    others = [
        Collection("tiny", TINY.corpus, TINY.queries, judged),
        Collection("tiny", TINY.corpus | {"d3": "berlin city"}, TINY.queries, TINY.qrels),
        Collection("tiny", TINY.corpus, TINY.queries | {"q1": "cat city"}, TINY.qrels),
    ]
    for place, other in enumerate(others, start=1):
        figure = evaluate(model, other)
        assert evaluate.searches == 1 + place
        assert figure == Evaluate(tmp_path / f"fresh {place}")(model, other)


@pytest.mark.parametrize("setting", ["codec", "document length", "prompt", "activation"])
def test_settings_that_move_scores(evaluate: Evaluate, mice_folder: Path, setting: str) -> None:
    evaluate(load(str(mice_folder), device="cpu"))
    other = load(str(mice_folder), device="cpu", **({"codec": "int4"} if setting == "codec" else {}))
    if setting == "document length":
        other.model.max_seq_length = 4
    if setting == "prompt":
        other.model.prompts = {"query": "berlin "}
        other.model.default_prompt_name = "query"
    if setting == "activation":
        import torch

        other.model.activation_fn = torch.nn.Tanh()
    evaluate(other)
    assert evaluate.searches == 2
