"""The command ``mice-st train``; its options are those of ``mice_st.training.recipe``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from statistics import mean

from mice_st.training.recipe import TrainingRecipe

CHECKPOINTS = "checkpoints"
# What each reporter of transformers' Trainer imports, where that is not its own name.
REPORTER_PACKAGES = {"dvclive": "dvclive", "clearml": "clearml", "azure_ml": "azureml", "comet_ml": "comet_ml"}
NO_REPORTERS = ("none", "all")


def run_train(recipe: TrainingRecipe) -> None:
    """Train, and print loss and nDCG@10 before and after; with several seeds, their mean and spread."""
    check_reporter(recipe.report_to)
    from mice_st.training.seeds import train_seeds
    from mice_st.training.trainer import train

    if recipe.seeds:
        seeds = train_seeds(recipe)
        if recipe.is_first_process:
            print(f"{seeds.output}: {len(seeds.figures)} seeds, the best is {seeds.best_seed}")
            for name, value in seeds.mean.items():
                print(f"{name}: {value:.4f} ± {seeds.spread[name]:.4f}")
        return
    result = train(recipe)
    if not recipe.is_first_process:  # torchrun: the first process speaks for all
        return
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    tenth = max(1, len(losses) // 10)
    print(f"{result.output}: {result.steps} steps in {result.seconds:.0f} s of training")
    print(f"loss: {mean(losses[:tenth]):.4f} in the first tenth, {mean(losses[-tenth:]):.4f} in the last")
    figures = [entry["eval_dev_ndcg@10"] for entry in result.history if "eval_dev_ndcg@10" in entry]
    if figures:
        print(f"dev nDCG@10: {figures[0]:.4f} at first, {result.best_ndcg_at_10:.4f} best (step {result.best_step})")


def check_reporter(name: str) -> None:
    """Refuse a reporter whose package is missing, before anything is loaded.

    Raises:
        ImportError: If the package is not installed; names it.
    """
    if name in NO_REPORTERS:
        return
    package = REPORTER_PACKAGES.get(name, name)
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"report_to: {name} needs the package {package}, which is not installed: pip install {package}"
        )


def existing_model(recipe: TrainingRecipe) -> str | None:
    """Name the model that lies in the output folder, unless the run goes on where it stopped."""
    output = Path(recipe.output)
    if Path(recipe.model).exists() and output.exists() and output.samefile(recipe.model):
        return f"{output} is the folder of the model that training starts from"
    if recipe.resume or any(output.glob("seed-*")):  # several seeds go on by themselves
        return None
    return (
        f"{output} holds a model" if (output / "config.json").exists() or (output / "modules.json").exists() else None
    )


def saved_checkpoint(recipe: TrainingRecipe) -> str | None:
    """Name the last checkpoint, and how to go on from it."""
    folders = [Path(recipe.output), *sorted(Path(recipe.output).glob("seed-*"))]
    found = [path for folder in folders for path in (folder / CHECKPOINTS).glob("checkpoint-*")]
    if not found:
        return "no checkpoint was written yet"
    last = max(found, key=lambda path: (path.parent, int(path.name.rpartition("-")[2])))
    how = "the same command goes on" if recipe.seeds else "the same command with --resume goes on"
    return f"{last} is saved, {how} from there"
