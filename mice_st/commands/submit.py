"""The command ``mice-st submit``.

Nothing leaves the machine unless ``dry_run`` is false; then the results go through mteb's own ``submit_results``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

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
        metadata={
            "help": "Folder, Hub id or released model's name of the MICE model that was evaluated.",
            "metavar": "MODEL",
        }
    )
    results: str = field(
        metadata={"help": "JSON file of mice-st evaluate; mteb's results lie beside it.", "metavar": "FILE"}
    )
    repo: str = field(metadata={"help": "Hub id of the model, organisation/name."})
    revision: str = field(metadata={"help": "Commit of the model there, 40 digits."})
    output: str = field(
        metadata={"help": "Folder for the results tree, the metadata and the texts.", "metavar": "FOLDER"}
    )
    license: str | None = field(default=None, metadata={"help": "Licence of the model, such as apache-2.0."})
    release_date: str | None = field(default=None, metadata={"help": "Date of this revision, YYYY-MM-DD."})
    languages: list[str] | None = field(default=None, metadata={"help": "Languages of the model, such as eng-Latn."})
    training_datasets: list[str] | None = field(
        default=None, metadata={"help": "Tasks whose data the model was trained on, by mteb's names."}
    )
    dry_run: bool = field(
        default=True,
        metadata={"help": "Stop before the network; --no-dry-run opens the pull request with the results."},
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        if self.repo.count("/") != 1 or not all(self.repo.split("/")):
            raise ValueError(f"repo: must be org/name, got {self.repo!r}")
        if not COMMIT.fullmatch(self.revision):
            raise ValueError(f"revision: must be a commit of 40 hexadecimal digits, got {self.revision!r}")


def run_submit(options: SubmitOptions) -> None:
    """Prepare, check, and print what to do next."""
    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.evaluation.mteb_model import import_mteb
    from mice_st.evaluation.mteb_submission import (
        check_model,
        check_results,
        collect_results,
        format_meta,
        is_known,
        make_submission_meta,
        model_request,
        results_request,
    )

    mteb = import_mteb()
    output = Path(options.output)
    model = load_model(options.model)
    if not isinstance(model, MiceCrossEncoder):
        raise ValueError(f"model: {options.model} is not MICE; mteb knows other kinds by itself: mteb submit-results")
    meta = make_submission_meta(
        model,
        options.repo,
        options.revision,
        license=options.license,
        release_date=options.release_date,
        languages=options.languages,
        training_datasets=None if options.training_datasets is None else set(options.training_datasets),
    )
    results = collect_results(model, options.model, Path(options.results), meta, output)
    checked = check_results(output, meta, results) + check_model(model, meta)
    texts = {
        "model_meta.py": format_meta(meta),
        "pull_request_model.md": model_request(meta, checked),
        "pull_request_results.md": results_request(meta, results, checked),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    print("\n".join(f"checked: {line}" for line in checked))
    for name in ("pull_request_model.md", "pull_request_results.md"):
        print(f"\n--- {output / name}\n{texts[name]}")
    if options.dry_run:
        print("nothing was sent; --no-dry-run opens the pull request with the results")
        return
    local = [result.task_name for result in results if not is_known(result.task_name)]
    if local:
        raise ValueError(f"results: mteb does not know the tasks {', '.join(local)}, so they cannot be submitted")
    try:
        sent = mteb.ResultCache(output).submit_results([meta], create_pr=True)
    except RuntimeError as error:  # git and GitHub, in mteb's words
        raise OSError(f"mteb could not submit the results: {error}") from error
    print(sent)
