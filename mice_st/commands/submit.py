"""``mice-st submit``: an evaluation as mteb's leaderboard takes it: checked results, the model's metadata, two pull requests.

Nothing leaves the machine unless ``dry_run`` is false; then the results go through mteb's own ``submit_results``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.mteb_model import MiceSearch, import_mteb, make_model_meta, model_revision
from mice_st.loading import load_model, resolve_model

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class SubmitOptions:
    """Prepare results for the MTEB leaderboard.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If ``repo`` is not ``org/name``, or ``revision`` is not a full commit.
    """

    model: str = field(
        metadata={"help": "Folder, Hub id or released model's name of the MICE model that was evaluated."}
    )
    results: str = field(metadata={"help": "JSON file that mice-st evaluate wrote; mteb's results lie beside it."})
    repo: str = field(metadata={"help": "org/name of the model on the Hub."})
    revision: str = field(metadata={"help": "Its commit there, 40 digits."})
    output: str = field(metadata={"help": "Folder for the results tree, the metadata and the texts."})
    license: str | None = field(default=None, metadata={"help": "Of the model, such as apache-2.0."})
    release_date: str | None = field(default=None, metadata={"help": "Of this revision, YYYY-MM-DD."})
    languages: list[str] | None = field(default=None, metadata={"help": "Such as eng-Latn."})
    training_datasets: list[str] | None = field(
        default=None, metadata={"help": "mteb's names of the tasks whose data the model was trained on."}
    )
    dry_run: bool = field(
        default=True, metadata={"help": "Stop before the network; false opens the pull request with the results."}
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        if self.repo.count("/") != 1 or not all(self.repo.split("/")):
            raise ValueError(f"repo: must be org/name, got {self.repo!r}")
        if not COMMIT.fullmatch(self.revision):
            raise ValueError(f"revision: must be a commit of 40 hexadecimal digits, got {self.revision!r}")


def run_submit(options: SubmitOptions) -> None:
    """Prepare, check, and print what to do next."""
    mteb = import_mteb()
    output = Path(options.output)
    model = load_model(options.model)
    if not isinstance(model, MiceCrossEncoder):
        raise ValueError(f"model: {options.model} is not MICE; mteb knows other kinds by itself: mteb submit-results")
    meta = make_submission_meta(model, options)
    results = collect_results(model, options, meta, output)
    checked = check_results(output, meta, results) + check_model(model, meta)
    texts = {
        "model_meta.py": format_meta(meta),
        "pull_request_model.md": _model_request(meta, checked),
        "pull_request_results.md": _results_request(meta, results, checked),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    print("\n".join(f"checked: {line}" for line in checked))
    for name in ("pull_request_model.md", "pull_request_results.md"):
        print(f"\n--- {output / name}\n{texts[name]}")
    if options.dry_run:
        print("nothing was sent; --dry_run false opens the pull request with the results")
        return
    local = [result.task_name for result in results if not _is_known(result.task_name)]
    if local:
        raise ValueError(f"results: mteb does not know the tasks {', '.join(local)}, so they cannot be submitted")
    try:
        sent = mteb.ResultCache(output).submit_results([meta], create_pr=True)
    except RuntimeError as error:  # git and GitHub, in mteb's words
        raise OSError(f"mteb could not submit the results: {error}") from error
    print(sent)


def make_submission_meta(model: Any, options: SubmitOptions) -> Any:
    """The metadata for mteb's pull request.

    Its loader is mteb's own wrapper, with ``trust_remote_code`` at a pinned commit: it gives the same scores as ours, and mteb's reviewers
    need no other package. Fields that were not given stay None; nothing is made up.
    """
    import_mteb()
    from mteb.models.sentence_transformer_wrapper import CrossEncoderWrapper

    given: dict[str, Any] = {
        "license": options.license,
        "release_date": options.release_date,
        "languages": options.languages,
        "training_datasets": None if options.training_datasets is None else set(options.training_datasets),
    }
    pinned = {"trust_remote_code": True, "model_kwargs": {"code_revision": options.revision}}
    meta = make_model_meta(
        model,
        options.repo,
        options.revision,
        loader=CrossEncoderWrapper,
        loader_kwargs=pinned,
        open_weights=True,
        reference=f"https://huggingface.co/{options.repo}",
        use_instructions=False,
        **{name: value for name, value in given.items() if value is not None},
    )
    return meta.model_copy(update={"name": options.repo})  # also where a folder of that name lies here


def collect_results(model: Any, options: SubmitOptions, meta: Any, output: Path) -> list[Any]:
    """Copy the results of this very model into a tree under its name on the Hub.

    Returns:
        mteb's ``TaskResult`` of each task.

    Raises:
        FileNotFoundError: If there are no results of mteb beside the file.
        ValueError: If none of them are of the model as it is now, or the output holds results already.
    """
    mteb = import_mteb()
    tree = Path(options.results).with_suffix(".mteb")
    if not tree.is_dir():
        raise FileNotFoundError(f"{options.results}: there is no {tree.name} beside it; evaluate a suite of mteb first")
    if (output / "results").exists():
        raise ValueError(f"{output}: holds results already; give another output")
    local = make_model_meta(model, options.model, model_revision(options.model))
    folder = tree / "results" / local.model_name_as_path() / str(local.revision)
    files = sorted(file for file in folder.glob("*.json") if file.name != "model_meta.json")
    if not files:
        raise ValueError(f"{tree}: holds no results of {options.model} as it is now (in float32 states)")
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
        if not _is_known(result.task_name):
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


def _is_known(task: str) -> bool:
    try:
        import_mteb().get_task(task)
    except KeyError:
        return False
    return True


def _model_request(meta: Any, checked: list[str]) -> str:
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


def _results_request(meta: Any, results: list[Any], checked: list[str]) -> str:
    rows = "\n".join(
        f"| {result.task_name} | {result.get_score():.4f} |" for result in results if _is_known(result.task_name)
    )
    table = f"| task | main score |\n| --- | --- |\n{rows}" if rows else "There is no result of a task that mteb knows."
    checks = "\n".join(f"- {line}" for line in checked)
    return (
        "# Pull request 2: the results, to embeddings-benchmark/results\n\n"
        f"Title: Add results of {meta.name}\n\nModel: {meta.name}, revision {meta.revision}\n\n{table}\n\n{checks}\n\n"
        "Candidates come from the first stage that each result names. `mteb submit-results --output-folder FOLDER` opens it.\n"
    )
