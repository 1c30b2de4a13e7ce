"""What a run can do beside training: several dev sets, batches by tokens, states on disk or quantised, its speed, a full disk."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection, write_beir
from mice_st.data.first_stage import BM25
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.states.errors import StoreMismatchError
from mice_st.training import TrainingRecipe, TrainingResult, train
from mice_st.training.checkpoints import is_complete, list_checkpoints
from mice_st.training.dev_sets import build_evaluator
from mice_st.training.reranker_trainer import RerankerTrainer
from mice_st.training.schedule import Schedule
from mice_st.training.throughput import Throughput

Recipe = Callable[..., TrainingRecipe]


def losses(result: TrainingResult) -> list[float]:
    return [entry["loss"] for entry in result.history if "loss" in entry]


@pytest.fixture
def halves(toy: Collection, tmp_path: Path) -> list[str]:
    """The toy collection as two, each with half of the queries."""
    names = list(toy.queries)
    for name, chosen in (("even", names[::2]), ("odd", names[1::2])):
        queries = {query_id: toy.queries[query_id] for query_id in chosen}
        part = Collection(name, toy.corpus, queries, {query_id: toy.qrels[query_id] for query_id in chosen})
        write_beir(part, tmp_path / name, "test")
    return [f"{tmp_path / name}:test" for name in ("even", "odd")]


def test_several_dev_sets_are_logged_and_their_mean_decides(
    recipe: Recipe, halves: list[str], toy_folder: Path, toy: Collection
) -> None:
    run = recipe(dev_data=halves, watch_data=[f"{toy_folder}:dev"], dev_top_k=10, max_steps=4, save_steps=2)
    result = train(run)
    measured = [entry for entry in result.history if "eval_dev_ndcg@10" in entry]
    assert [entry["step"] for entry in measured] == [0, 2, 4]
    for entry in measured:
        both = [entry[f"eval_{name}_ndcg@10"] for name in ("even", "odd")]
        assert entry["eval_dev_ndcg@10"] == mean(both)
        # The watched set is both halves together, twelve queries each.
        assert entry["eval_watched_ndcg@10"] == pytest.approx(mean(both), abs=1e-9)
    assert result.best_ndcg_at_10 == max(entry["eval_dev_ndcg@10"] for entry in measured)
    candidates = BM25(toy.corpus).search(toy.queries, 10)
    alone = RerankingEvaluator(toy, candidates).measure(MiceCrossEncoder(run.output, device="cpu"))[0]
    assert alone.ndcg_at_10 == pytest.approx(result.best_ndcg_at_10, abs=1e-9)


def test_every_seed_is_measured_on_the_same_queries(recipe: Recipe, halves: list[str]) -> None:
    drawn = set()
    for seed in range(5):
        evaluator = build_evaluator(recipe(dev_data=halves[:1], dev_queries=3, dev_top_k=10, seed=seed))
        assert isinstance(evaluator, RerankingEvaluator)
        drawn.add(frozenset(evaluator.candidates))
    assert len(drawn) == 1
    assert {len(queries) for queries in drawn} == {3}


def test_two_dev_sets_of_one_name_are_refused(recipe: Recipe, halves: list[str]) -> None:
    with pytest.raises(ValueError, match="the name 'even' is there twice"):
        train(recipe(dev_data=[halves[0], halves[0]]))
    with pytest.raises(ValueError, match="watch_data: needs dev_data"):
        recipe(watch_data=halves)


@pytest.mark.slow
def test_batches_by_tokens_train_and_resume_to_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    fields = {"batch_tokens": 120, "max_steps": 9, "save_steps": 4}
    whole = train(recipe(output=str(tmp_path / "whole"), **fields))
    assert whole.steps == 9
    cut = recipe(output=str(tmp_path / "cut"), **fields)
    train(cut)
    for checkpoint in list_checkpoints(Path(cut.output) / "checkpoints")[1:]:
        (checkpoint / "optimizer.pt").unlink()
    resumed = train(recipe(output=cut.output, resume=True, **fields))
    assert losses(resumed) == losses(whole)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_states_on_disk_train_like_states_in_memory(recipe: Recipe, still_mice_folder: Path, tmp_path: Path) -> None:
    shared = {"model": str(still_mice_folder), "freeze_contextualization": True, "max_steps": 5}
    store = tmp_path / "states" / "documents.sqlite"
    memory = train(recipe(output=str(tmp_path / "memory"), **shared))
    disk = train(recipe(output=str(tmp_path / "disk"), stored_states_file=str(store), **shared))
    assert losses(disk) == pytest.approx(losses(memory), abs=1e-5)
    size = store.stat().st_size
    again = train(recipe(output=str(tmp_path / "again"), stored_states_file=str(store), **shared))
    assert losses(again) == losses(disk)
    assert store.stat().st_size == size
    with pytest.raises(StoreMismatchError, match="codec"):
        train(
            recipe(output=str(tmp_path / "other"), stored_states_file=str(store), stored_states_dtype="int8", **shared)
        )


@pytest.mark.slow
def test_quantised_states_are_what_the_layers_above_are_trained_on(
    recipe: Recipe, still_mice_folder: Path, tmp_path: Path
) -> None:
    shared = {"model": str(still_mice_folder), "freeze_contextualization": True, "max_steps": 3}
    runs = {
        dtype: losses(train(recipe(output=str(tmp_path / dtype), stored_states_dtype=dtype, **shared)))
        for dtype in ("float32", "int8", "int4")
    }
    near, far = (abs(runs[dtype][0] - runs["float32"][0]) for dtype in ("int8", "int4"))
    assert 0 < near < far < 0.5


def test_the_log_says_how_fast_the_run_is_and_when_it_ends(recipe: Recipe) -> None:
    result = train(recipe(max_steps=5))
    for entry in result.history:
        assert entry["documents_per_second"] > 0
        # A document of four words and a query of three make at least (4 + 3) tokens without [CLS] and [SEP].
        assert entry["tokens_per_second"] > entry["documents_per_second"]
    left = [entry["seconds_left"] for entry in result.history]
    assert left[-1] == 0
    assert left[0] > left[-2] > 0


def test_documents_and_tokens_are_counted_without_padding(
    still_mice_folder: Path, cross_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import CrossEncoder

    ticks = iter([0.0, 2.0, 4.0, 0.0, 2.0])
    monkeypatch.setattr("mice_st.training.throughput.time.monotonic", lambda: next(ticks))
    mice = MiceCrossEncoder(str(still_mice_folder), device="cpu").train()
    counter = Throughput(mice)
    pairs = [("how many", "cat"), ("how many", "cat dog bird"), ("who", "cat")]
    mice(mice.preprocess(pairs))
    with torch.no_grad():
        mice(mice.preprocess(pairs))  # measuring is not training
    # how many, who: 4 + 3 tokens with [CLS] and [SEP]; cat, cat dog bird: 3 + 5.
    assert counter.figures() == {"documents_per_second": 1.5, "tokens_per_second": 7.5}
    mice(mice.preprocess(pairs[:1]))
    assert counter.figures(processes=2) == {"documents_per_second": 2.0, "tokens_per_second": 11.0}
    plain = CrossEncoder(str(cross_encoder_folder), device="cpu").train()
    counter = Throughput(plain)
    plain(plain.preprocess(pairs[:2]))
    assert counter.figures() == {"documents_per_second": 1.0, "tokens_per_second": 7.0}  # 6 + 8 tokens


def test_the_time_left_is_that_of_the_remaining_steps_or_seconds(recipe: Recipe) -> None:
    schedule = Schedule(recipe().settings, max_steps=10, elapsed_seconds=5.0)
    assert schedule.seconds_left(0) is None
    schedule.elapsed_seconds = 9.0
    assert schedule.seconds_left(4) == pytest.approx(6.0)
    timed = Schedule(recipe(max_seconds=20.0).settings, max_steps=10, elapsed_seconds=0.0)
    timed.elapsed_seconds = 16.0
    assert timed.seconds_left(4) == pytest.approx(4.0)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        pytest.param(RuntimeError("PytorchStreamWriter failed writing file"), marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_leaves_the_last_good_checkpoint(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path
) -> None:
    whole = train(recipe(output=str(tmp_path / "whole"), max_steps=6, save_steps=2))
    save = RerankerTrainer._save_optimizer_and_scheduler

    def fill(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            (Path(folder) / "optimizer.pt").write_bytes(b"half of it")
            raise error
        save(self, folder)

    run = recipe(max_steps=6, save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(RerankerTrainer, "_save_optimizer_and_scheduler", fill)
        with pytest.raises(
            OSError, match=r"step 4: .*checkpoint-4 could not be written: .*last good checkpoint is .*checkpoint-2"
        ):
            train(run)
    (checkpoint,) = list_checkpoints(Path(run.output) / "checkpoints")
    assert checkpoint.name == "checkpoint-2"
    assert is_complete(checkpoint, 1)
    assert [entry["step"] for entry in json.loads((checkpoint.parent / "history.json").read_text())] == [1, 2, 3, 4]
    resumed = train(recipe(max_steps=6, save_steps=2, resume=True))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_push_that_fails_costs_no_checkpoint(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("the Hub is away")

    monkeypatch.setattr(RerankerTrainer, "_push_from_checkpoint", refuse)
    monkeypatch.setattr(RerankerTrainer, "init_hf_repo", lambda *_, **__: None)
    run = recipe(max_steps=2, save_steps=1, push_to="org/model")
    with pytest.raises(OSError, match=r"^the Hub is away$"):
        train(run)
    (checkpoint,) = list_checkpoints(Path(run.output) / "checkpoints")
    assert is_complete(checkpoint, 1)
