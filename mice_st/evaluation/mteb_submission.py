"""An evaluation for mteb's leaderboard: checked results, the model's metadata, the texts of two pull requests."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from mice_st.evaluation.mteb_model import MiceSearch, import_mteb, make_model_meta, model_revision


def make_submission_meta(model: Any, repo: str, revision: str, **given: Any) -> Any:
    """The metadata for mteb's pull request.

    Its loader is mteb's own wrapper, with ``trust_remote_code`` at a pinned commit: it gives the same scores as ours,
    and mteb's reviewers need no other package. Fields that were not given stay None; nothing is made up.

    Args:
        model: The ``MiceCrossEncoder`` that was evaluated.
        repo: Its Hub id.
        revision: Its commit there, 40 hexadecimal digits.
        **given: ``license``, ``release_date``, ``languages`` and ``training_datasets`` as mteb takes them; None where
            they are not known.
    """
    import_mteb()
    from mteb.models.sentence_transformer_wrapper import CrossEncoderWrapper

    pinned = {"trust_remote_code": True, "model_kwargs": {"code_revision": revision}}
    meta = make_model_meta(
        model,
        repo,
        revision,
        loader=CrossEncoderWrapper,
        loader_kwargs=pinned,
        open_weights=True,
        reference=f"https://huggingface.co/{repo}",
        use_instructions=False,
        **{name: value for name, value in given.items() if value is not None},
    )
    return meta.model_copy(update={"name": repo})  # also where a folder of that name lies here


def collect_results(model: Any, name: str, evaluated: Path, meta: Any, output: Path) -> list[Any]:
    """Copy the results of this very model into a tree under its name on the Hub.

    Args:
        model: The model.
        name: Its folder or Hub id, as it was evaluated.
        evaluated: JSON file of ``mice-st evaluate``.
        meta: Of ``make_submission_meta``.
        output: Folder for the tree.

    Returns:
        mteb's ``TaskResult`` of each task.

    Raises:
        FileNotFoundError: If there are no results of mteb beside the file.
        ValueError: If none of them are of the model as it is now, or the output holds results already.
    """
    mteb = import_mteb()
    tree = evaluated.with_suffix(".mteb")
    if not tree.is_dir():
        raise FileNotFoundError(f"{evaluated}: there is no {tree.name} beside it; evaluate a suite of mteb first")
    if (output / "results").exists():
        raise ValueError(f"{output}: holds results already; give another output")
    local = make_model_meta(model, name, model_revision(name))
    folder = tree / "results" / local.model_name_as_path() / str(local.revision)
    files = sorted(file for file in folder.glob("*.json") if file.name != "model_meta.json")
    if not files:
        raise ValueError(f"{tree}: holds no results of {name} as it is now (in float32 states)")
    results = [mteb.TaskResult.from_disk(file) for file in files]
    for result in results:
        mteb.ResultCache(output).save_to_cache(result, meta)
    return results


def check_results(output: Path, meta: Any, results: list[Any]) -> list[str]:
    """Check results as mteb itself reads and filters them.

    Returns:
        A line for each check that was made.

    Raises:
        ValueError: If a result cannot be read back, is incomplete, or has a score that is no share; names the task.
    """
    mteb = import_mteb()
    loaded = mteb.ResultCache(output).load_results([meta.name], include_remote=False, require_model_meta=True)
    names = {result.task_name for one in loaded.model_results for result in one.task_results}
    if missing := {result.task_name for result in results} - names:
        raise ValueError(f"task {min(missing)}: mteb does not read the result back")
    lines = [f"mteb reads back the results of {len(names)} tasks"]
    for result in results:
        score = result.get_score()
        if not math.isfinite(score) or not 0 <= score <= 1:
            raise ValueError(f"task {result.task_name}: the main score is {score}")
        if not is_known(result.task_name):
            lines.append(f"{result.task_name}: {score:.4f}; not a task of mteb, so not for the leaderboard")
            continue
        task = mteb.get_task(result.task_name)
        if result.dataset_revision != task.metadata.dataset["revision"]:
            raise ValueError(
                f"task {result.task_name}: measured on revision {result.dataset_revision} of the dataset, mteb's is "
                f"{task.metadata.dataset['revision']}"
            )
        whole = result.validate_and_filter_scores(task)
        if absent := set(task.eval_splits) - whole.scores.keys():
            raise ValueError(f"task {result.task_name}: there are no scores of the split {min(absent)}")
        lines.append(f"{result.task_name}: {score:.4f}, all splits and subsets there")
    return lines


def check_model(model: Any, meta: Any) -> list[str]:
    """Run mteb's mock-run: its small made-up tasks of every kind that the model takes.

    Raises:
        ValueError: If one of them fails for another reason than that a re-ranker needs candidates; names all that do.
    """
    tasks = import_mteb().mock_run(MiceSearch(model, meta)).task_results
    failed = {name: result.exception for name, result in tasks.items() if hasattr(result, "exception")}
    without = [name for name, message in failed.items() if "needs candidates" in message]
    if others := failed.keys() - set(without):
        raise ValueError("mock-run: " + "; ".join(f"{name}: {failed[name]}" for name in sorted(others)))
    passed = sum(result is not None for result in tasks.values()) - len(failed)
    return [f"mock-run: {passed} tasks pass; {len(without)} bring no candidates, which a re-ranker needs"]


def format_meta(meta: Any) -> str:
    """The metadata as the Python file for mteb's repository."""
    variable = re.sub(r"\W", "_", meta.name.split("/")[1])
    return (
        "from mteb.models.model_meta import ModelMeta\n"
        "from mteb.models.sentence_transformer_wrapper import CrossEncoderWrapper\n\n"
        f"{variable} = {meta.to_python()}\n"
    )


def is_known(task: str) -> bool:
    """Whether mteb has a task of this name."""
    try:
        import_mteb().get_task(task)
    except KeyError:
        return False
    return True


def model_request(meta: Any, checked: list[str]) -> str:
    """The text of the pull request with the model's metadata."""
    organisation, _, name = meta.name.partition("/")
    unset = [key for key in ("license", "release_date", "languages", "training_datasets") if getattr(meta, key) is None]
    missing = f"\nStill to be filled in, since they were not given: {', '.join(unset)}.\n" if unset else ""
    checks = "\n".join(f"- {line}" for line in checked if line.startswith("mock-run"))
    return (
        f"# Pull request 1: the model, to embeddings-benchmark/mteb\n\nTitle: Add model {meta.name}\n\n"
        f"File: `mteb/models/model_implementations/{organisation.lower().replace('-', '_')}_models.py`, with the content of "
        f"`model_meta.py`.\n{missing}\n"
        f"{name} is a MICE re-ranker (Minimal Interaction Cross-Encoders, arXiv 2602.16299). It loads as a `CrossEncoder` with "
        f"`trust_remote_code=True`, pinned to {meta.revision}.\n\n{checks}\n"
    )


def results_request(meta: Any, results: list[Any], checked: list[str]) -> str:
    """The text of the pull request with the results."""
    rows = "\n".join(
        f"| {result.task_name} | {result.get_score():.4f} |" for result in results if is_known(result.task_name)
    )
    table = f"| task | main score |\n| --- | --- |\n{rows}" if rows else "There is no result of a task that mteb knows."
    checks = "\n".join(f"- {line}" for line in checked)
    return (
        "# Pull request 2: the results, to embeddings-benchmark/results\n\n"
        f"Title: Add results of {meta.name}\n\nModel: {meta.name}, revision {meta.revision}\n\n{table}\n\n{checks}\n\n"
        "Candidates come from the first stage that each result names. `mteb submit-results --output-folder FOLDER` opens it.\n"
    )
