"""One training run for each of several seeds: a figure without its spread says little."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mice_st.files import read_json, write_json
from mice_st.training.checkpoints import is_complete, list_checkpoints
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.trainer import train

RESULT_FILE = "result.json"
SEEDS_FILE = "seeds.json"


@dataclass(frozen=True)
class SeedsResult:
    """The result of several seeds.

    Attributes:
        figures: For each seed ``seed``, ``step`` and the figures of its best checkpoint, such as ``dev_ndcg@10``, and
            of its start, such as ``start_dev_ndcg@10``.
        mean: Figure -> mean over the seeds.
        spread: Figure -> standard deviation over the seeds (of a sample; 0 for one seed).
        best_seed: The seed whose ``dev_ndcg@10`` is highest.
        output: Folder with its model.
    """

    figures: list[dict[str, Any]]
    mean: dict[str, float]
    spread: dict[str, float]
    best_seed: int
    output: Path


def train_seeds(recipe: TrainingRecipe) -> SeedsResult:
    """Train once for each of ``recipe.seeds``.

    The runs lie in ``seed-<n>`` of the output folder. The same call again skips those that are finished and goes on
    with the one that was cut off. The model of the best seed is copied to the output folder itself, beside
    ``seeds.json``.

    Raises:
        ValueError: If there is no dev data to compare the seeds on; otherwise as ``train``.
    """
    if not recipe.seeds or recipe.dev_data is None:
        raise ValueError("seeds: need dev_data, which they are compared on")
    output = Path(recipe.output)
    figures = [
        _one_seed(replace(recipe, seed=seed, seeds=None, output=str(output / f"seed-{seed}"))) for seed in recipe.seeds
    ]
    names = [name for name in figures[0] if name not in ("seed", "step")]
    mean = {name: fmean(entry[name] for entry in figures) for name in names}
    spread = {name: stdev(entry[name] for entry in figures) if len(figures) > 1 else 0.0 for name in names}
    best = max(figures, key=lambda entry: entry["dev_ndcg@10"])["seed"]
    result = SeedsResult(figures, mean, spread, best, output)
    if recipe.is_first_process:
        for file in (output / f"seed-{best}").iterdir():
            if file.is_dir() and file.name != "checkpoints":  # a module of its own, such as ColBERT's projection
                shutil.copytree(file, output / file.name, dirs_exist_ok=True)
            elif file.is_file() and file.name != RESULT_FILE:
                shutil.copyfile(file, output / file.name)
        write_json(
            output / SEEDS_FILE, {"seeds": figures, "mean": mean, "standard_deviation": spread, "best_seed": best}
        )
    return result


def _one_seed(recipe: TrainingRecipe) -> dict[str, Any]:
    """Figures of the best checkpoint of one seed, read where the run is finished."""
    path = Path(recipe.output) / RESULT_FILE
    if path.is_file():
        return read_json(path)
    checkpoints = list_checkpoints(Path(recipe.output) / "checkpoints")
    result = train(replace(recipe, resume=any(is_complete(folder, recipe.processes) for folder in checkpoints)))
    measured = {entry["step"]: entry for entry in result.history if "eval_dev_ndcg@10" in entry}
    start, best = (
        {name.removeprefix("eval_"): value for name, value in measured[step].items() if name.endswith("ndcg@10")}
        for step in (min(measured), result.best_step or 0)
    )
    entry = {"seed": recipe.seed, "step": result.best_step, **best, **{f"start_{name}": start[name] for name in start}}
    if recipe.is_first_process:
        write_json(path, entry)
    return entry
