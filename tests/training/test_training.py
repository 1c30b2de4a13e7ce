"""Training as a whole, on models that take milliseconds a step."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.training import TrainingRecipe, TrainingResult, train
from mice_st.training.batches import ShuffledBatches
from mice_st.training.checkpoints import list_checkpoints
from mice_st.training.schedule import Schedule
from mice_st.training.training_arguments import learning_rates

Recipe = Callable[..., TrainingRecipe]
Write = Callable[..., str]


def losses(result: TrainingResult) -> list[float]:
    return [entry["loss"] for entry in result.history if "loss" in entry]


def figures(result: TrainingResult) -> dict[int, float]:
    """Step -> nDCG@10 on the dev data."""
    return {entry["step"]: entry["eval_dev_ndcg@10"] for entry in result.history if "eval_dev_ndcg@10" in entry}


def weights(model: CrossEncoder) -> dict[str, torch.Tensor]:
    return model.state_dict()


@pytest.fixture(scope="module")
def learnt(
    still_mice_folder: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingRecipe, TrainingResult]:
    """One run that learns the toy collection by heart."""
    recipe = TrainingRecipe.from_flat(
        model=str(still_mice_folder),
        train_data=[str(toy_folder)],
        dev_data=[str(toy_folder)],
        dev_top_k=10,
        output=str(tmp_path_factory.mktemp("learnt") / "output"),
        batch_size=8,
        negatives=5,
        learning_rate=2e-3,
        interaction_learning_rate_factor=1.0,
        head_learning_rate_factor=1.0,
        residual_learning_rate_factor=1.0,
        max_steps=240,
        save_steps=80,
        cpu=True,
    )
    return recipe, train(recipe)


def test_the_toy_is_learnt(learnt: tuple[TrainingRecipe, TrainingResult]) -> None:
    _, result = learnt
    assert len(losses(result)) == result.steps == 240
    assert losses(result)[0] > 1
    assert max(losses(result)[-10:]) < 0.2
    assert figures(result)[0] < 0.7
    assert figures(result)[240] > 0.95
    assert (result.best_ndcg_at_10 or 0) > 0.95


def test_the_output_is_a_hub_folder_that_scores_like_the_trained_model(
    learnt: tuple[TrainingRecipe, TrainingResult], toy: Collection
) -> None:
    recipe, result = learnt
    pairs = [(query, toy.corpus[f"d{query_id[1:]}"]) for query_id, query in toy.queries.items()]
    loaded = MiceCrossEncoder(recipe.output, device="cpu")
    torch.testing.assert_close(loaded.predict(pairs), result.model.predict(pairs), atol=1e-6, rtol=0)
    assert all((result.output / f"{name}_mice.py").is_file() for name in ("configuration", "modeling", "st"))
    assert not list(result.output.rglob("training_args.bin"))


def test_recipe_and_history_lie_beside_the_checkpoints(learnt: tuple[TrainingRecipe, TrainingResult]) -> None:
    recipe, result = learnt
    checkpoints = result.output / "checkpoints"
    assert TrainingRecipe.from_flat(**json.loads((checkpoints / "recipe.json").read_text())["recipe"]) == recipe
    assert json.loads((checkpoints / "history.json").read_text()) == result.history
    names = [path.name for path in list_checkpoints(checkpoints)]
    assert names[-1] == "checkpoint-240"
    assert f"checkpoint-{result.best_step}" in names
    assert len(names) <= 2


def test_the_best_checkpoint_is_the_one_that_stays(
    recipe: Recipe, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([0.5, 0.6, 0.9, 0.7, 0.9, 0.8])  # the first before any step; of equal figures the earlier stays
    monkeypatch.setattr(RerankingEvaluator, "__call__", lambda *_, **__: {"dev_ndcg@10": next(scripted)})
    result = train(recipe(dev_data=str(toy_folder), max_steps=5, save_steps=1, keep_checkpoints=1))
    assert figures(result) == {0: 0.5, 1: 0.6, 2: 0.9, 3: 0.7, 4: 0.9, 5: 0.8}
    assert (result.best_step, result.best_ndcg_at_10) == (2, 0.9)
    best, last = list_checkpoints(result.output / "checkpoints")
    assert (best.name, last.name) == ("checkpoint-2", "checkpoint-5")
    for name, tensor in weights(MiceCrossEncoder(str(best), device="cpu")).items():
        assert torch.equal(tensor, weights(result.model)[name]), name
    different = [
        name
        for name, tensor in weights(MiceCrossEncoder(str(last), device="cpu")).items()
        if not torch.equal(tensor, weights(result.model)[name])
    ]
    assert different


def test_the_figure_of_the_best_checkpoint_is_that_of_the_saved_model(
    learnt: tuple[TrainingRecipe, TrainingResult], toy: Collection
) -> None:
    recipe, result = learnt
    candidates = BM25(toy.corpus).search(toy.queries, recipe.dev_top_k)
    measured, _ = RerankingEvaluator(toy, candidates).measure(MiceCrossEncoder(recipe.output, device="cpu"))
    assert measured.ndcg_at_10 == result.best_ndcg_at_10


def test_a_best_checkpoint_that_cannot_be_loaded_is_an_error(
    recipe: Recipe, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, path: str) -> None:
        raise ValueError(f"cannot read {Path(path).name}")

    monkeypatch.setattr("mice_st.training.reranker_trainer.RerankerTrainer._load_from_checkpoint", fail)
    with pytest.raises(ValueError, match="cannot read checkpoint-1"):
        train(recipe(dev_data=str(toy_folder), max_steps=1))


def test_training_from_stored_states_equals_training_from_texts(recipe: Recipe, still_mice_folder: Path) -> None:
    choices: dict[str, dict[str, Any]] = {
        "texts": {"stored_states": False},
        "float32": {"stored_states_dtype": "float32"},
        "float16": {"stored_states_dtype": "float16"},
    }
    shared = {"model": str(still_mice_folder), "freeze_contextualization": True, "max_steps": 12}
    runs = {name: train(recipe(output=recipe().output + name, **shared, **fields)) for name, fields in choices.items()}
    start = weights(MiceCrossEncoder(str(still_mice_folder), device="cpu"))
    assert losses(runs["texts"])[-1] < losses(runs["texts"])[0]
    assert losses(runs["float32"]) == pytest.approx(losses(runs["texts"]), abs=1e-5)
    assert losses(runs["float16"]) == pytest.approx(losses(runs["texts"]), abs=1e-2)
    for result in runs.values():
        moved = {name for name, tensor in weights(result.model).items() if not torch.equal(tensor, start[name])}
        assert moved
        assert not {name for name in moved if ".backbone." in name}


def test_margin_mse_learns_a_teacher(recipe: Recipe, toy: Collection, write_rows: Write) -> None:
    documents = list(toy.corpus.values())
    lines = [
        {"query": query, "positive": documents[place], "negatives": [documents[place - 1], documents[place - 2]]}
        | {"scores": [4.0, 1.0, 1.0]}
        for place, query in enumerate(toy.queries.values())
    ]
    result = train(recipe(train_data=write_rows(*lines), max_steps=90, learning_rate=2e-3))
    assert losses(result)[-1] < 0.1 * losses(result)[0]
    scores = result.model.predict([(lines[5]["query"], lines[5]["positive"]), (lines[5]["query"], documents[4])])
    assert float(scores[0] - scores[1]) == pytest.approx(3.0, abs=1.0)


@pytest.mark.parametrize("loss", ["list_net", "lambda"])
@pytest.mark.parametrize("folder", ["cross_encoder_folder", "embedding_folder"])
def test_a_plain_cross_encoder_trains_the_same_way(
    recipe: Recipe,
    write_rows: Write,
    folder: str,
    loss: str,
    toy: Collection,
    toy_folder: Path,
    request: pytest.FixtureRequest,
) -> None:
    # What a tiny cross-encoder learns in some steps: documents about bridges are the relevant ones.
    lines = [
        {"query": query, "positive": f"{document} bridge", "negatives": [f"{document} cat", f"{document} dog"]}
        for query, document in zip(toy.queries.values(), toy.corpus.values(), strict=True)
    ]
    run = recipe(
        model=str(request.getfixturevalue(folder)),
        train_data=write_rows(*lines),
        loss=loss,
        dev_data=str(toy_folder),
        dev_top_k=10,
        max_steps=100,
        save_steps=100,
        head_learning_rate_factor=10.0,
    )
    result = train(run)
    assert type(result.model) is CrossEncoder
    assert sum(losses(result)[-10:]) < 0.6 * sum(losses(result)[:10])
    assert set(figures(result)) == {0, 100}
    scores = CrossEncoder(run.output, device="cpu").predict([("how many", "how many cat dog")])
    assert scores == pytest.approx(result.model.predict([("how many", "how many cat dog")]), abs=1e-6)


def test_bf16_and_gradient_checkpointing_run(recipe: Recipe) -> None:
    result = train(recipe(bf16=True, gradient_checkpointing=True, max_steps=6))
    assert all(torch.isfinite(torch.tensor(losses(result))))


def test_gradient_checkpointing_changes_no_loss(recipe: Recipe, still_mice_folder: Path) -> None:
    runs = [
        train(
            recipe(
                model=str(still_mice_folder),
                output=recipe().output + str(switch),
                gradient_checkpointing=switch,
                max_steps=4,
            )
        )
        for switch in (False, True)
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(
    recipe: Recipe, toy: Collection, write_rows: Write
) -> None:
    documents = list(toy.corpus.values())
    last_batch = list(ShuffledBatches(24, 8, 0))[2]
    lines = [
        {"query": query, "positive": documents[place], "negatives": [documents[place - 1]]}
        | {"scores": [1e30 if place == last_batch[0] else 1.0, 0.0]}  # finite, but not its square in float32
        for place, query in enumerate(toy.queries.values())
    ]
    run = recipe(train_data=write_rows(*lines), save_steps=1, max_steps=9, keep_checkpoints=5)
    with pytest.raises(ValueError, match=rf"step 3: the loss is inf; .*rows\.jsonl, line {last_batch[0] + 1}[;.]"):
        train(run)
    checkpoints = Path(run.output) / "checkpoints"
    assert [path.name for path in list_checkpoints(checkpoints)] == ["checkpoint-1", "checkpoint-2"]
    assert [entry["step"] for entry in json.loads((checkpoints / "history.json").read_text())] == [1, 2]
    assert not (Path(run.output) / "model.safetensors").exists()


def test_a_run_that_time_limits_ends_with_a_low_learning_rate(
    recipe: Recipe, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr("mice_st.training.schedule.time.perf_counter", lambda: next(ticks) / 10)  # 0.1 s a step
    result = train(recipe(max_seconds=2.95, dev_data=str(toy_folder), save_steps=1000))
    assert result.steps == 29  # and 0.1 s before the first
    assert result.seconds == pytest.approx(3.0)
    rates = [entry["learning_rate"] for entry in result.history if "loss" in entry]
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] < 0.03 * max(rates)
    assert list(figures(result)) == [0, 29], "the last step is evaluated, whatever its number"
    assert result.best_step == 29


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 25}, "batch_size: 25 rows in a step, but there are only 24"),
        ({"expected_processes": 2}, "expected_processes: 2, but there is 1"),
        ({"max_seconds": 1e-9, "freeze_contextualization": True}, "max_seconds: encoding the documents alone took"),
        ({"loss": "margin_mse"}, "scores: loss margin_mse needs a teacher's scores"),
    ],
)
def test_a_recipe_that_does_not_fit_says_why(recipe: Recipe, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(recipe(**fields))


def test_a_plain_cross_encoder_has_nothing_to_freeze(recipe: Recipe, cross_encoder_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"freeze_contextualization: .* is not MICE"):
        train(recipe(model=str(cross_encoder_folder), freeze_contextualization=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("negatives", 0),
        ("max_seconds", 0),
        ("warmup", 1.0),
        ("dropout", 1.0),
        ("learning_rate", -1.0),
        ("limit", 0),
    ],
)
def test_an_impossible_value_names_its_field(recipe: Recipe, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}: "):
        recipe(**{field: value})


def test_each_parameter_has_one_learning_rate(recipe: Recipe, mice: MiceCrossEncoder) -> None:
    factors = {"interaction": 5.0, "head": 10.0, "residual": 3.0}
    run = recipe(learning_rate=1.0, **{f"{part}_learning_rate_factor": factor for part, factor in factors.items()})
    rates = learning_rates(run.settings, mice)
    found = {}
    for name, _ in mice.named_parameters():
        matching = [rate for pattern, rate in rates.items() if re.search(pattern, f"model.{name}")]
        assert len(matching) <= 1, name
        found[name] = matching[0] if matching else 1.0
    expected = {
        "backbone": 1.0,
        "pooler": 10.0,
        "classifier": 10.0,
        "max_sim_residual": 3.0,
        "pooled_residual_log_scale": 3.0,
    }
    for name, rate in found.items():
        part = name.removeprefix("0.model.").split(".")[0]
        assert rate == expected.get(part, 5.0), name  # exact-match heads learn at the rate of their interaction layer
    assert set(found.values()) == {1.0, 3.0, 5.0, 10.0}


def test_progress_is_of_steps_or_seconds_whichever_is_further(recipe: Recipe) -> None:
    schedule = Schedule(recipe(max_seconds=110.0, warmup=0.0).settings, max_steps=99, elapsed_seconds=10.0)
    assert schedule.progress(49) == 0.5
    schedule.elapsed_seconds = 90.0
    assert schedule.progress(49) == 0.8
    assert schedule(49) == pytest.approx(0.2)
    assert not schedule.is_over_time
    schedule.elapsed_seconds = 111.0
    assert schedule(49) == 0.0
    assert schedule.is_over_time


def test_shapes_of_the_schedule(recipe: Recipe) -> None:
    linear, cosine, constant = (
        Schedule(recipe(schedule=kind, warmup=0.2).settings, max_steps=99) for kind in ("linear", "cosine", "constant")
    )
    assert [round(schedule(9), 6) for schedule in (linear, cosine, constant)] == [0.5, 0.5, 0.5]
    assert [round(schedule(19), 6) for schedule in (linear, cosine, constant)] == [1.0, 1.0, 1.0]
    assert [round(schedule(59), 6) for schedule in (linear, cosine, constant)] == [0.5, 0.5, 1.0]
    assert linear(98) > 0


def test_the_evaluator_agrees_for_states_and_texts(mice: MiceCrossEncoder, toy: Collection) -> None:
    candidates = {query_id: list(toy.corpus)[:9] for query_id in list(toy.queries)[:9]}
    evaluator = RerankingEvaluator(toy, candidates, "toy", keep_states=True)
    figures_of_model, run = evaluator.measure(mice)
    assert {query_id: set(scores) for query_id, scores in run.items()} == {q: set(c) for q, c in candidates.items()}
    for query_id, scores in run.items():
        pairs = [(toy.queries[query_id], toy.corpus[item]) for item in scores]
        # 1e-2: states are measured in float16, as they would be stored.
        assert list(scores.values()) == pytest.approx(list(map(float, mice.predict(pairs))), abs=1e-2)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert figures_of_model.missing_queries == 24 - 9
    assert evaluator(mice)["toy_ndcg@10"] == figures_of_model.ndcg_at_10
    with pytest.raises(ValueError, match="document 'x' is not in the corpus"):
        RerankingEvaluator(toy, {"q0": ["x"]})
    with pytest.raises(ValueError, match="query 'x' is not in toy"):
        RerankingEvaluator(toy, {"x": ["d0"]})


def test_kept_states_are_encoded_anew_when_the_layers_below_have_changed(
    mice_folder: Path, toy: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = {query_id: list(toy.corpus)[:4] for query_id in list(toy.queries)[:4]}
    evaluator = RerankingEvaluator(toy, candidates, keep_states=True)
    model = MiceCrossEncoder(str(mice_folder), device="cpu")
    first = evaluator.rerank(model)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(model, "encode_documents", lambda *_, **__: pytest.fail("encoded twice"))
        model.mice.classifier.bias.add_(1.0)
        above = evaluator.rerank(model)
    for query_id, scores in first.items():
        assert list(above[query_id].values()) == pytest.approx([score + 1.0 for score in scores.values()], abs=1e-5)
    with torch.no_grad():
        for parameter in model.mice.backbone.parameters():
            parameter.add_(0.05 * parameter.sign())
    fresh = RerankingEvaluator(toy, candidates).rerank(model)
    assert evaluator.rerank(model) == fresh
    assert fresh != above


def test_bf16_encodes_the_stored_documents_in_mixed_precision_too(recipe: Recipe) -> None:
    first = [
        losses(
            train(recipe(freeze_contextualization=True, bf16=bf16, output=recipe().output + str(bf16), max_steps=1))
        )[0]
        for bf16 in (False, True)
    ]
    assert first[0] == pytest.approx(first[1], rel=0.05)
