"""The candidates of a task of mteb: its own, those of a first stage, or those of a run file."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mice_st.data.own_documents import OwnDocuments, find_own_documents, search_without_own, without_own
from mice_st.data.runs import Run, check_finite, read_run
from mice_st.evaluation.mteb_model import import_mteb
from mice_st.evaluation.mteb_tasks import SuiteTask, hash_collection
from mice_st.evaluation.suites import CandidateSet, cached_candidates, cached_run
from mice_st.evaluation.systems import BM25_NAME

logger = logging.getLogger(__name__)

RUN_SUFFIX = ".trec"


def find_candidates(
    entry: SuiteTask, first_stage: str, top_k: int, cache: Path, ignore_identical_ids: bool = False
) -> CandidateSet:
    """Find the candidates of a task, or read them from ``cache`` where they were found before.

    Args:
        entry: The task. Candidates that it brings along are taken as they are, whatever the first stage.
        first_stage: ``"bm25"`` (bm25s without stemming, as on the dev sets), a model of mteb such as
            ``mteb/baseline-bm25s`` (with stemming) or an embedding model, a run file in TREC format, or a folder with
            ``<task>.trec`` for each task.
        top_k: Candidates of a query at most.
        cache: Folder for runs.
        ignore_identical_ids: As for ``find_own_documents``. Of mteb's own tasks, mteb's rule is followed: all equal ids
            are ignored, or none.

    Returns:
        The task as a set: every judged query is there, without documents if nothing was found for it. A query that is a
        document of the corpus itself is no candidate of its own.

    Raises:
        FileNotFoundError: If the folder has no run file for this task.
        ValueError: If the first stage is unknown, a run file is bad, names a document that the task does not have for a
            query that it has, or holds no candidate at all, or a score is not finite; the message names it.
    """
    collection = entry.collection
    content = hash_collection(collection)
    own = _own_documents(entry, ignore_identical_ids)
    counts = own.counts
    if entry.candidates is not None:
        # In the order of the task; the scores say only that.
        run = {
            query_id: {item: -float(place) for place, item in enumerate(entry.candidates.get(query_id, ()))}
            for query_id in collection.qrels
        }
        first_stage = "the task's own"
    elif Path(first_stage).exists():
        run = _read_run_of(entry, Path(first_stage))
        if others := run.keys() - collection.qrels.keys():
            counts["run_queries_passed_over"] = len(others)
        first_stage = Path(first_stage).name
    elif first_stage == BM25_NAME:
        run, _ = cached_candidates(collection, top_k, cache, own.left_out)
    else:
        model = _find_model(first_stage)
        without = f"/without {sorted(own.left_out)}" if own.left_out else ""
        key = f"{content}/{model.name}/{model.revision}/{top_k}{without}"
        path = cache / "candidates" / f"{collection.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

        def search() -> Run:
            return search_without_own(lambda depth: search_with(entry, model, depth), top_k, own.left_out)

        run = cached_run(path, key, search)
    depth = None if entry.candidates is not None else top_k
    run = without_own(run, own.left_out)
    checked = {query_id: dict(list(run.get(query_id, {}).items())[:depth]) for query_id in collection.qrels}
    _check(entry, checked)
    digest = hashlib.sha256(f"{collection.name}/{content}".encode())
    for query_id in sorted(checked):
        digest.update(json.dumps([query_id, list(checked[query_id])]).encode())
    made = CandidateSet(entry.group, collection, checked, digest.hexdigest(), first_stage, counts)
    missed = made.queries_without_candidates
    if len(missed) == len(checked):
        raise ValueError(f"{collection.name}: {first_stage} has no candidate for any query")
    _report(made, missed)
    return made


def _own_documents(entry: SuiteTask, ignore_identical_ids: bool) -> OwnDocuments:
    if entry.is_mtebs and not ignore_identical_ids and not entry.task.ignore_identical_ids:
        return OwnDocuments(frozenset(), frozenset())
    return find_own_documents(entry.collection, ignore_identical_ids or entry.task.ignore_identical_ids)


def _report(made: CandidateSet, missed: list[str]) -> None:
    """One line on queries that the first stage and the set do not both have."""
    told = []
    if missed:
        told.append(
            f"{len(missed)} of {len(made.candidates)} queries have no candidates and score 0; the first: {missed[0]!r}"
        )
    if others := made.counts.get("run_queries_passed_over"):
        told.append(
            f"{others} queries of {made.first_stage} are not judged here, or were not drawn, and are passed over"
        )
    if told:
        logger.warning("%s: %s", made.collection.name, "; ".join(told))


def search_with(entry: SuiteTask, model: Any, top_k: int) -> Run:
    """Search a task's corpus with a model of mteb.

    Args:
        entry: The task.
        model: What ``mteb.evaluate`` takes.
        top_k: Documents of a query at most.

    Returns:
        Query id -> document id -> score, best first; equal scores are ordered by document id.
    """
    entry.task._top_k = top_k  # private; how deep mteb's search goes
    found = run_mteb(entry, model, batch_size=64, show_progress_bar=True)[1]
    return {
        query_id: dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top_k])
        for query_id, scores in found.items()
    }


def run_mteb(entry: SuiteTask, model: Any, batch_size: int, show_progress_bar: bool | None = None) -> tuple[Any, Run]:
    """Evaluate a model on a task with mteb, and nothing of an earlier evaluation.

    Args:
        entry: The task.
        model: What ``mteb.evaluate`` takes.
        batch_size: Pairs or texts computed at a time.
        show_progress_bar: None leaves it to ``MiceSearch``, which shows one where the work takes over two seconds; a
            model of mteb's or of sentence-transformers' shows one from the first moment on, or none.

    Returns:
        mteb's ``TaskResult``, and the scores that it was computed from, query id -> document id -> score.
    """
    mteb = import_mteb()
    with TemporaryDirectory() as folder:
        result = mteb.evaluate(
            model,
            entry.task,
            cache=None,
            co2_tracker=False,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": show_progress_bar},
            prediction_folder=folder,
            show_progress_bar=False,
        )
        (file,) = Path(folder).glob("*.json")
        ((_, splits),) = (item for item in json.loads(file.read_text()).items() if item[0] != "mteb_model_meta")
    return result.task_results[0], splits[entry.split]


def _find_model(name: str) -> Any:
    try:
        return import_mteb().get_model_meta(name)
    except KeyError as error:
        raise ValueError(
            f"first_stage: {name!r} is neither {BM25_NAME}, nor a run file or a folder of them, nor a model that mteb knows"
        ) from error


def _read_run_of(entry: SuiteTask, path: Path) -> Run:
    file = path / f"{entry.collection.name}{RUN_SUFFIX}" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"first_stage: there is no {file}, the run file of task {entry.collection.name}")
    return read_run(file)


def _check(entry: SuiteTask, run: Run) -> None:
    """Refuse scores that are no numbers and documents that are not there."""
    for query_id, scores in run.items():
        check_finite(query_id, scores)
        for document_id in scores:
            if document_id not in entry.collection.corpus:
                raise ValueError(
                    f"{entry.collection.name}: candidates of query {query_id!r}: document {document_id!r} is not in the corpus"
                )
