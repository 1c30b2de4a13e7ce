"""Recipe files: what is filled in, what is done once, what goes on, and that every example can be read."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.ablation_grid import AblateOptions, read_grid
from mice_st.commands.recipes import go_on, read_recipe, run_recipe
from mice_st.data.collection import Collection, write_beir
from mice_st.training import TrainingRecipe, TrainingSettings
from mice_st.training.reranker_trainer import RerankerTrainer

EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes"
# Recipes of what mice-mini is measured beside.
TO_COMPARE_WITH = ("cross-encoder-teacher", "colbert")

TWO_STEPS = """
output = "{folder}/run"
data = "{folder}/data"
max_steps = 3
cpu = true

[[steps]]
name = "start"
command = "convert"
source = "{source}"
interaction_layers = 1

[[steps]]
name = "model"
model = "{{start}}"
train_data = ["{{data}}/pets"]
batch_size = 2
negatives = 2
seeds = [0, 1]
dev_data = ["{{data}}/pets:train"]
dev_top_k = 5
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "recipe.toml").write_text(text)
        return str(tmp_path / "recipe.toml")

    return write


@pytest.fixture
def two_steps(write: Callable[[str], str], tmp_path: Path, embedding_folder: Path) -> str:
    corpus = {
        f"d{place}": f"{word} {place} city"
        for place, word in enumerate(["cat", "dog", "bird", "river", "bridge", "museum"])
    }
    queries = {f"q{place}": corpus[f"d{place}"].split()[0] + " city" for place in range(4)}
    qrels = {query: {f"d{place}": 1} for place, query in enumerate(queries)}
    write_beir(Collection("pets", corpus, queries, qrels), tmp_path / "data" / "pets", "train")
    return write(TWO_STEPS.format(folder=tmp_path, source=embedding_folder))


def test_every_example_can_be_read_and_names_what_it_makes() -> None:
    recipes = [path for path in EXAMPLES.glob("*.toml") if path.name != "ablation.toml"]
    assert len(recipes) == 7
    for path in recipes:
        output, steps = read_recipe(str(path), ["--data", "elsewhere"])
        assert output == Path("runs") / path.stem
        assert steps[-1].command == ("evaluate" if path.stem.startswith("mice-") else "train")
        assert Path(steps[-1].options.output).parent == output
        last_trained = [step for step in steps if step.command == "train"][-1]
        if path.stem in TO_COMPARE_WITH:  # trained to the end whatever the dev sets say
            assert last_trained.options.dev_data is None
            continue
        assert all(source.startswith(("elsewhere/", "python-docs")) for source in last_trained.options.dev_data)


def test_no_example_trains_on_a_set_that_only_measures() -> None:
    only_measured = (
        "covidqa",
        "climate_fever_ev",
        "cosqa",
        "cranfield",
        "semeval16_qc",
        "squad:dev",
        "medquad:dev",
        "test",
    )
    for path in [*EXAMPLES.glob("mice-*.toml"), *(EXAMPLES / f"{name}.toml" for name in TO_COMPARE_WITH)]:
        for step in read_recipe(str(path))[1]:
            sources = (
                step.options.data if step.command in ("mine", "label") else getattr(step.options, "train_data", [])
            )
            assert not [source for source in sources if any(name in source for name in only_measured)], (
                path,
                step.name,
            )


def test_the_variants_of_the_example_grid_differ_from_its_base_in_what_their_names_say() -> None:
    _, variants = read_grid(AblateOptions(str(EXAMPLES / "ablation.toml")))
    names = [variant.name for variant in variants]
    assert names[0] == "base"
    assert names.count("interaction_layers=3") == 1
    assert "interaction_layers=2, cls_attends_document=false" in names
    for variant in variants[1:]:
        changed = {
            name
            for part in ("convert", "train")
            for name, value in getattr(variant, part).items()
            if getattr(variants[0], part).get(name) != value
        }
        assert changed == {part.split("=")[0] for part in variant.name.split(", ")}
        gone = variants[0].convert.keys() - variant.convert.keys()
        assert gone == ({"data"} if "max_sim_residual=false" in variant.name else set())


def test_what_the_command_line_says_wins_over_the_step_and_the_step_over_the_file(
    write: Callable[[str], str],
) -> None:
    path = write(
        'output = "o"\nseed = 1\nbatch_size = 4\n'
        '[[steps]]\nname = "a"\ncommand = "mine"\ndata = ["{data}/x:train"]\nlimit_share = 0.5\n'
        '[[steps]]\nname = "b"\nmodel = "m"\ntrain_data = ["{a}", "y"]\nseed = 2\nbf16 = false\n'
    )
    _, (mine, train) = read_recipe(path)
    assert (mine.options.data, mine.options.output, mine.options.seed) == (["data/x:train"], "o/a.jsonl", 1)
    assert (train.options.train_data, train.options.output) == (["o/a.jsonl", "y"], "o/b")
    assert (train.options.seed, train.options.settings.batch_size, train.options.limit) == (2, 4, None)
    flags = ["--output", "p", "--data=d", "--seed", "3", "--limit", "10", "--bf16", "--dev-data", "v", "w"]
    _, (mine, train) = read_recipe(path, flags)
    assert (mine.options.data, mine.options.output, mine.options.limit) == (["d/x:train"], "p/a.jsonl", 5)
    assert (train.options.seed, train.options.limit, train.options.settings.bf16) == (3, 10, True)
    assert train.options.dev_data == ["v", "w"]


def test_a_file_without_steps_holds_the_fields_of_one_recipe(write: Callable[[str], str]) -> None:
    path = write(
        'output = "o"\nmodel = "m"\ntrain_data = ["t"]\nlearning_rate = 1e-4\nfreeze_contextualization = true\n'
    )
    _, (step,) = read_recipe(path)
    expected = TrainingRecipe(
        "m", ["t"], "o", settings=TrainingSettings(learning_rate=1e-4, freeze_contextualization=True)
    )
    assert (step.command, step.options) == ("train", expected)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("output = ", [], "Invalid value"),
        ('model = "m"', [], "the field 'output' is missing"),
        ('output = "o"\n[[steps]]\nmodel = "m"', [], "step 1 has no name"),
        ('output = "o"\n[[steps]]\nname = "a"\ncommand = "fly"', [], "there is no command 'fly'; there are convert"),
        (
            'output = "o"\n[[steps]]\nname = "a"\nmodel = "{b}"\ntrain_data = ["t"]',
            [],
            r"step 'a': model: \{b\} is no earlier step; there are data, output",
        ),
        (
            'output = "o"\nmodel = "m"\ntrain_data = ["t"]\nbach_size = 3',
            [],
            "there is no flag --bach_size; did you mean --batch-size",
        ),
        (
            'output = "o"\nmodel = "m"\ntrain_data = ["t"]\nloss = "hinge"',
            [],
            "step 'o': --loss: invalid choice",
        ),
        ('output = "o"\nmodel = "m"\ntrain_data = ["t"]\nbatch_size = 0', [], "batch_size: must be at least 1"),
        (
            'output = "o"\nmodel = "m"\ntrain_data = ["t"]',
            ["--wings", "2"],
            "no step of the recipe has the flags --wings",
        ),
        ('output = "o"\nmodel = "m"\ntrain_data = ["t"]', ["2"], "'2' stands before any flag"),
    ],
)
def test_a_bad_recipe_says_why(write: Callable[[str], str], text: str, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(write(text), flags)


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "absent.toml"]) == 2
    assert capsys.readouterr().err == "mice-st train: recipe: there is no file absent.toml\n"


def test_steps_are_done_once_and_seeds_have_mean_and_spread(
    two_steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", two_steps, "--max-steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Step 2 of 2: model (train)" in printed
    folder = tmp_path / "run" / "model"
    assert (folder / "recipe.toml").read_text() == Path(two_steps).read_text()
    assert json.loads((folder / "training.json").read_text())["model"]["made_by"]["command"] == "convert"
    summary = json.loads((folder / "seeds.json").read_text())
    figures, starts = [], []
    for seed in (0, 1):
        history = json.loads((folder / f"seed-{seed}" / "checkpoints" / "history.json").read_text())
        assert max(entry["step"] for entry in history) == 2
        figures.append(max(entry.get("eval_dev_ndcg@10", 0.0) for entry in history))
        starts.append(next(entry["eval_dev_ndcg@10"] for entry in history if entry["step"] == 0))
    assert summary["mean"]["dev_ndcg@10"] == pytest.approx(sum(figures) / 2)
    assert summary["mean"]["start_dev_ndcg@10"] == pytest.approx(sum(starts) / 2)
    assert summary["standard_deviation"]["dev_ndcg@10"] == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5)
    assert f"dev_ndcg@10: {sum(figures) / 2:.4f} ± " in printed
    best = MiceCrossEncoder(str(folder / f"seed-{summary['best_seed']}"), device="cpu").state_dict()
    for name, tensor in MiceCrossEncoder(str(folder), device="cpu").state_dict().items():
        assert torch.equal(tensor, best[name]), name
    # Once more: nothing is converted or trained, not even where one step has lost its marker.
    monkeypatch.setattr("mice_st.commands.convert.run_convert", lambda *_, **__: pytest.fail("converted twice"))
    monkeypatch.setattr(RerankerTrainer, "train", lambda *_, **__: pytest.fail("trained twice"))
    run_recipe(two_steps, ["--max-steps", "2"])
    (tmp_path / "run" / "steps" / "model.json").unlink()
    run_recipe(two_steps, ["--max-steps", "2"])
    with pytest.raises(ValueError, match=r"step 'model' was done with other options \(max_steps\)"):
        run_recipe(two_steps, ["--max-steps", "4"])


def test_a_recipe_may_end_in_measuring_what_it_made(
    two_steps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path(two_steps).read_text().split('[[steps]]\nname = "model"')[0]
    measured = (
        'name = "measured"\ncommand = "evaluate"\nmodel = ["bm25", "{start}"]\nsuite = "folder:{data}/pets:train"\n'
    )
    Path(two_steps).write_text(f"{start}[[steps]]\n{measured}")
    run_recipe(two_steps)
    figures = json.loads((tmp_path / "run" / "measured.json").read_text())
    assert [system["name"] for system in figures["systems"]] == ["bm25", "start"]
    assert "| start |" in capsys.readouterr().out
    (tmp_path / "run" / "measured.json").unlink()
    run_recipe(two_steps)
    assert not (tmp_path / "run" / "measured.json").exists(), "measured twice"


def test_a_step_that_was_cut_off_goes_on_from_its_last_complete_checkpoint(tmp_path: Path) -> None:
    recipe = TrainingRecipe("m", ["t"], str(tmp_path))
    assert go_on(recipe) == recipe
    checkpoint = tmp_path / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    assert not go_on(recipe).resume
    assert not checkpoint.exists(), "half of a first checkpoint stands in the way of a fresh start"
    checkpoint.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (checkpoint / name).write_text("{}")
    assert go_on(recipe).flat() == recipe.flat() | {"resume": True}


def test_seeds_need_something_to_compare_them_on(two_steps: str, tmp_path: Path) -> None:
    text = Path(two_steps).read_text()
    Path(two_steps).write_text(text.replace('dev_data = ["{data}/pets:train"]', ""))
    with pytest.raises(ValueError, match="seeds: need dev_data"):
        run_recipe(two_steps)


@pytest.mark.slow
def test_two_processes_do_a_recipe_together(two_steps: str, tmp_path: Path) -> None:
    text = (
        Path(two_steps)
        .read_text()
        .replace("seeds =", 'freeze_contextualization = true\nstored_states_file = "{output}/states.sqlite"\nseeds =')
    )
    Path(two_steps).write_text(text)
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "mice_st",
        "train",
    )
    ran = subprocess.run(
        [sys.executable, *torchrun, two_steps, "--max-steps", "2", "--expected-processes", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("Step 2 of 2") == 1
    summary = json.loads((tmp_path / "run" / "model" / "seeds.json").read_text())
    assert [entry["seed"] for entry in summary["seeds"]] == [0, 1]
    assert (tmp_path / "run" / "states.sqlite").is_file()


@pytest.mark.slow
def test_mice_mini_runs_from_one_end_to_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "berlin",
        "museum",
        "river",
        "bridge",
        "capital",
        "sort",
        "file",
        "read",
        "write",
        "open",
        "close",
        "path",
        "cat",
        "dog",
        "bird",
        "people",
        "city",
    ]
    for name, splits in {
        "squad": ("train", "dev"),
        "medquad": ("train", "dev", "test"),
        "scifact": ("train",),
        "qed_nq": ("dev",),
        "covidqa": ("test",),
        "climate_fever_ev": ("dev", "test"),
        "cosqa": ("dev", "test"),
        "cranfield": ("test",),
    }.items():
        corpus = {
            f"d{place}": f"{word} of {words[place - 1]} lies here. " + " ".join(words[place:] + words[:place])
            for place, word in enumerate(words)
        }
        queries = {f"q{place}": f"where is {words[place]} {words[place - 1]}" for place in range(12)}
        for half, split in enumerate(splits):
            qrels = {f"q{place}": {f"d{place}": 1} for place in range(half, 12, len(splits))}
            write_beir(Collection(name, corpus, queries, qrels), tmp_path / "data" / name, split)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(EXAMPLES / "mice-mini.toml", "mice-mini.toml")
    flags = ["--limit", "80", "--negatives", "3", "--batch-size", "2", "--dev-queries", "3"]
    run_recipe("mice-mini.toml", [*flags, "--dev-top-k", "5", "--cpu", "--device", "cpu"])
    summary = json.loads(Path("runs/mice-mini/distilled/seeds.json").read_text())
    assert len(summary["seeds"]) == 3
    assert {"dev_ndcg@10", "watched_ndcg@10"} <= set(summary["mean"])
    assert Path("runs/mice-mini/mice-mini/recipe.toml").read_text() == (EXAMPLES / "mice-mini.toml").read_text()
    scores: Any = MiceCrossEncoder("runs/mice-mini/mice-mini", device="cpu").predict([("where", "here"), ("a", "b")])
    assert bool(torch.isfinite(torch.tensor(scores)).all())
    measured = json.loads(Path("runs/mice-mini/measured.json").read_text())
    assert [system["name"].split("@")[0] for system in measured["systems"]] == ["bm25", "start", "mice-mini"]
