"""mteb behind the evaluation: its tasks as sets with candidates, and results in the form that its leaderboard takes.

Systems re-rank mteb's texts as they do those of any other set. mteb then reads each ranking as one of its own models
(``FixedRun``) and computes its own figures of it, so that what is written beside ours is mteb's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mice_st.data.runs import Run
from mice_st.evaluation.mteb_candidates import find_candidates
from mice_st.evaluation.mteb_model import import_mteb, make_model_meta, model_revision
from mice_st.evaluation.mteb_run import FixedRun, main_score, measure, to_task_result
from mice_st.evaluation.mteb_tasks import SuiteTask, load_tasks
from mice_st.evaluation.pipeline import Recorder
from mice_st.evaluation.suites import CandidateSet
from mice_st.evaluation.systems import BM25_NAME, System
from mice_st.files import read_json, write_json


class MtebSuite(Recorder):
    """A suite of mteb's tasks for ``evaluate``: its sets, and what mteb keeps of each measurement.

    Args:
        suite: As for ``load_tasks``.
        first_stage: As for ``find_candidates``.
        top_k: Candidates of a query; tasks that bring theirs keep them.
        queries: Queries of each set, drawn with ``seed``; None takes all.
        seed: Of the drawing.
        cache: Folder for first-stage runs.
        results: Folder for mteb's tree of results.
        strict: As for ``load_tasks``.
        ignore_identical_ids: As for ``find_candidates``.

    Raises:
        ImportError: If mteb is not installed; the message names the extra.
        ValueError: If the folder holds results of another first stage, depth or drawing: they would be taken for
            comparable.
    """

    def __init__(
        self,
        suite: str,
        first_stage: str,
        top_k: int,
        queries: int | None,
        seed: int,
        cache: Path,
        results: Path,
        strict: bool = False,
        ignore_identical_ids: bool = False,
    ) -> None:
        import_mteb()
        self._suite, self._first_stage, self._top_k = suite, first_stage, top_k
        self._queries, self._seed = queries, seed
        self._cache, self._results = cache, results
        self._strict, self._ignore_identical_ids = strict, ignore_identical_ids
        self._task: SuiteTask | None = None
        setting = {"first_stage": first_stage, "top_k": top_k, "queries": queries, "seed": seed}
        if ignore_identical_ids:  # only where it is so: results of earlier versions do not say it
            setting["ignore_identical_ids"] = True
        _refuse_other_setting(results / "setting.json", setting)

    def sets(self) -> Iterator[CandidateSet]:
        """Load the tasks one after the other, each with its candidates; raises as ``load_tasks`` and ``find_candidates``."""
        for task in load_tasks(self._suite, self._queries, self._seed, self._strict):
            self._task = task
            yield find_candidates(task, self._first_stage, self._top_k, self._cache, self._ignore_identical_ids)

    def tasks(self) -> Iterator[tuple[SuiteTask, CandidateSet]]:
        """``sets`` again, each with its task."""
        return ((self._task_of(entry), entry) for entry in self.sets())

    def _task_of(self, entry: CandidateSet) -> SuiteTask:
        task = self._task
        if task is None or task.collection is not entry.collection:
            raise ValueError(f"{entry.collection.name}: is not the set that was read last")
        return task

    def describe(self, entry: CandidateSet) -> dict[str, Any]:
        """Name of mteb's main figure."""
        return {"main_score": self._task_of(entry).task.metadata.main_score}

    def record(self, system: System, model: Any, entry: CandidateSet, run: Run, seconds: float) -> dict[str, Any]:
        """Mteb's result of a ranking and its metadata of the model, and the figure that its leaderboard shows.

        Raises:
            ValueError: If a candidate was not scored; names query and document.
        """
        task = self._task_of(entry)
        if system.source == BM25_NAME:
            meta = _first_stage_meta(entry)
        else:
            meta = make_model_meta(model, system.source, model_revision(system.source), system.codec or "fp32")
        result = measure(task, entry, FixedRun(run, meta)).result | {"evaluation_time": seconds}
        return {
            "figures": {"main_score": main_score(task, result)},
            "meta": meta.to_dict() | {"loader": None},
            "result": result,
        }

    def write(self, kept: dict[str, Any]) -> None:
        """Write one result into mteb's tree."""
        mteb = import_mteb()
        model_meta = mteb.models.ModelMeta
        meta = model_meta.model_validate({key: kept["meta"][key] for key in model_meta.model_fields})
        mteb.ResultCache(self._results).save_to_cache(to_task_result(kept["result"]), meta)


def _first_stage_meta(entry: CandidateSet) -> Any:
    """A first stage as a model of mteb; its revision is the hash of its candidates."""
    name = entry.first_stage.replace(" ", "-").replace("'", "")
    name = name if name.count("/") == 1 else f"local/{name}"
    return import_mteb().models.ModelMeta.create_empty({"name": name, "revision": entry.key[:40]})


def _refuse_other_setting(file: Path, setting: dict[str, Any]) -> None:
    if file.is_file():
        kept = read_json(file)
        for name in kept | setting:
            if kept.get(name) != setting.get(name):
                raise ValueError(
                    f"{file.parent}: holds results with {name} {kept.get(name)}, not {setting.get(name)}; give another "
                    "output"
                )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, setting)
