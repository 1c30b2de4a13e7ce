"""Runs that are cut off, go on, or run in two processes end where one uninterrupted process ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mice_st.training import TrainingRecipe, train
from mice_st.training.checkpoints import is_complete, list_checkpoints

Recipe = Callable[..., TrainingRecipe]

# Runs a recipe and kills itself in the middle of a step: nothing can be tidied up.
KILLED = """
import json, os, signal, sys
from mice_st.training import TrainingRecipe, train
from mice_st.training.reranker_trainer import RerankerTrainer

compute_loss = RerankerTrainer.compute_loss

def compute_and_die(self, *args, **kwargs):
    if self.state.global_step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return compute_loss(self, *args, **kwargs)

RerankerTrainer.compute_loss = compute_and_die
train(TrainingRecipe.from_flat(**json.loads(sys.argv[1])))
"""


def start(*command: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def flags(recipe: TrainingRecipe) -> list[str]:
    given = {name: value for name, value in recipe.flat().items() if value is not None}
    return [part for name, value in given.items() for part in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]


def history(recipe: TrainingRecipe) -> list[dict[str, Any]]:
    return json.loads((Path(recipe.output) / "checkpoints" / "history.json").read_text())


def test_a_killed_run_goes_on_to_the_same_weights(recipe: Recipe, toy_folder: Path, tmp_path: Path) -> None:
    # mice_folder has dropout, so that the state of the generators matters; 13 steps are four epochs and a part.
    fields = {"max_steps": 13, "save_steps": 4, "dev_data": str(toy_folder), "dev_top_k": 10}
    whole, cut = recipe(output=str(tmp_path / "whole"), **fields), recipe(output=str(tmp_path / "cut"), **fields)
    result = train(whole)
    killed = start("-c", KILLED, json.dumps(cut.flat()), "9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpoints = Path(cut.output) / "checkpoints"
    assert [path.name for path in list_checkpoints(checkpoints)][-1] == "checkpoint-8"
    # As if it had been killed while it wrote the next one.
    shutil.copytree(checkpoints / "checkpoint-8", checkpoints / "checkpoint-9")
    (checkpoints / "checkpoint-9" / "trainer_state.json").write_text('{"log_hist')
    resumed = train(recipe(output=cut.output, resume=True, **fields))
    assert resumed.steps == result.steps == 13
    for name, tensor in weights(whole.output).items():
        assert torch.equal(tensor, weights(cut.output)[name]), name
    keys = ("step", "loss", "eval_dev_ndcg@10")
    assert [[entry.get(key) for key in keys] for entry in resumed.history] == [
        [entry.get(key) for key in keys] for entry in result.history
    ]
    assert resumed.best_step == result.best_step


@pytest.mark.parametrize("limit", [{"max_steps": 3}, {"max_steps": 4}, {"max_steps": 5}, {"max_seconds": 0.5}], ids=str)
def test_a_finished_run_is_resumed_to_itself(recipe: Recipe, limit: dict[str, Any]) -> None:
    run = recipe(**limit)  # three steps are an epoch
    first = train(run)
    before = weights(run.output)
    again = train(recipe(**limit, resume=True))
    assert again.steps == first.steps == limit.get("max_steps", first.steps)
    assert again.history == first.history
    for name, tensor in weights(run.output).items():
        assert torch.equal(tensor, before[name]), name


def test_how_often_a_run_is_measured_and_saved_changes_no_weight(
    recipe: Recipe, toy_folder: Path, tmp_path: Path
) -> None:
    measured = {"dev_data": str(toy_folder), "dev_top_k": 10}
    never = train(recipe(output=str(tmp_path / "never"), max_steps=6, save_steps=6))
    for save_steps in (2, 3):
        often = recipe(output=str(tmp_path / f"every-{save_steps}"), max_steps=6, save_steps=save_steps, **measured)
        losses = [entry["loss"] for entry in train(often).history if "loss" in entry]
        assert losses == [entry["loss"] for entry in never.history]


def test_the_best_checkpoint_is_found_where_the_folder_was_moved_to(
    recipe: Recipe, toy_folder: Path, tmp_path: Path
) -> None:
    fields = {"max_steps": 6, "save_steps": 2, "keep_checkpoints": 3, "dev_data": str(toy_folder), "dev_top_k": 10}
    here, there = tmp_path / "here", tmp_path / "there"
    train(recipe(output=str(here), **fields))
    best, cut, last = list_checkpoints(here / "checkpoints")
    (last / "optimizer.pt").unlink()
    state = json.loads((cut / "trainer_state.json").read_text())
    state |= {"best_metric": 2.0, "best_global_step": 2, "best_model_checkpoint": str(best)}
    (cut / "trainer_state.json").write_text(json.dumps(state))
    here.rename(there)
    assert train(recipe(output=str(there), resume=True, **fields)).best_step == 2
    for name, tensor in weights(there / "checkpoints" / "checkpoint-2").items():
        assert torch.equal(tensor, weights(there)[name]), name


def test_a_run_from_before_a_field_was_there_goes_on_as_by_default(recipe: Recipe) -> None:
    run = recipe(max_steps=3)
    train(run)
    path = Path(run.output) / "checkpoints" / "recipe.json"
    kept = json.loads(path.read_text())
    del kept["recipe"]["architecture"]
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"another run: architecture was 'cross_encoder' and is 'colbert'$"):
        train(recipe(max_steps=3, architecture="colbert", resume=True))
    assert train(recipe(max_steps=3, resume=True)).steps == 3


def test_resuming_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = recipe(max_steps=2)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        train(recipe(resume=True))
    train(run)
    with pytest.raises(FileExistsError, match="holds checkpoints of an earlier run"):
        train(run)
    with pytest.raises(ValueError, match=r"max_steps was 2 and is 3; seed was 0 and is 1$"):
        train(recipe(max_steps=3, seed=1, resume=True))
    description = Path(run.output) / "checkpoints" / "recipe.json"
    other = json.loads(description.read_text()) | {"data_sha256": "0"}
    description.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="the training rows have changed"):
        train(recipe(max_steps=2, resume=True))
    description.write_text(json.dumps(other | {"processes": 2}))
    with pytest.raises(ValueError, match="there were 2 processes and are 1"):
        train(recipe(max_steps=2, resume=True))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_without_one_of_its_files_is_not_complete(tmp_path: Path, name: str) -> None:
    for file in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (tmp_path / file).write_text("{}")
    assert is_complete(tmp_path, processes=1)
    assert not is_complete(tmp_path, processes=2)
    (tmp_path / name).unlink()
    assert not is_complete(tmp_path, processes=1)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_can_be_cut_off(
    recipe: Recipe, still_mice_folder: Path, toy_folder: Path, tmp_path: Path
) -> None:
    fields = {"model": str(still_mice_folder), "dev_data": str(toy_folder), "dev_top_k": 10, "save_steps": 4}
    one = recipe(output=str(tmp_path / "one"), max_steps=8, **fields)
    two = recipe(output=str(tmp_path / "two"), max_steps=8, expected_processes=2, **fields)
    train(one)
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "mice_st",
        "train",
    )
    ran = start(*torchrun, *flags(two))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("8 steps in") == 1, "one process speaks for both"
    keys = ("step", "loss", "learning_rate", "eval_dev_ndcg@10")
    for alone, together in zip(history(one), history(two), strict=True):
        for key in keys:
            assert together.get(key) == pytest.approx(alone.get(key), abs=1e-5), (key, alone, together)
    uninterrupted = weights(two.output)
    for name, tensor in weights(one.output).items():
        # The bias of a key adds the same to all logits of a row, that of the classifier to all scores of a list: their
        # gradients are rounding noise, which Adam blows up.
        if not name.endswith(("key.bias", "classifier.bias")):
            torch.testing.assert_close(uninterrupted[name], tensor, atol=1e-4, rtol=0, msg=name)

    # The same run, its second half made by resuming.
    shutil.rmtree(Path(two.output) / "checkpoints" / "checkpoint-8")
    resumed = start(*torchrun, *flags(recipe(**{**two.flat(), "resume": True})))
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in weights(two.output).items():
        assert torch.equal(tensor, uninterrupted[name]), name


# The second process dies in its third step, once the first one has written the checkpoint of the second: how long that
# takes is the disk's affair, and cutting it short would be another test.
DEAD_WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from mice_st.training import TrainingRecipe, train
from mice_st.training.checkpoints import is_complete
from mice_st.training.reranker_trainer import RerankerTrainer

compute_loss = RerankerTrainer.compute_loss

def compute_and_die(self, *args, **kwargs):
    if os.environ["RANK"] == "1" and self.state.global_step == 2:
        while not is_complete(Path(self.args.output_dir) / "checkpoint-2", processes=2):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return compute_loss(self, *args, **kwargs)

RerankerTrainer.compute_loss = compute_and_die
train(TrainingRecipe.from_flat(**json.loads(sys.argv[1])))
print("it went on")
"""


@pytest.mark.slow
def test_a_dead_worker_ends_the_other_with_an_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DEAD_WORKER)
    run = recipe(max_steps=2000, save_steps=1, expected_processes=2)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    ran = start(
        *torchrun, str(tmp_path / "dies.py"), json.dumps(run.flat()), timeout=300
    )  # 2000 steps would take longer
    assert ran.returncode != 0
    assert "it went on" not in ran.stdout
    assert "Signal 9 (SIGKILL)" in ran.stderr
    assert not (Path(run.output) / "model.safetensors").exists()
    good = [folder for folder in list_checkpoints(Path(run.output) / "checkpoints") if is_complete(folder, processes=2)]
    assert [folder.name for folder in good] == ["checkpoint-1", "checkpoint-2"]
