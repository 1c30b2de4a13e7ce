"""Several systems on a suite of mteb's tasks: measured once, kept, and written as mteb writes results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mice_st.evaluation.mteb_candidates import TaskCandidates, find_candidates
from mice_st.evaluation.mteb_model import import_mteb, load_for_mteb, model_revision
from mice_st.evaluation.mteb_run import FixedRun, TaskMeasurement, main_score, measure, to_task_result
from mice_st.evaluation.mteb_tasks import SuiteTask, load_tasks
from mice_st.evaluation.per_query import QUERY_METRICS, query_figures, write_per_query
from mice_st.evaluation.systems import BM25_NAME, System, list_systems
from mice_st.files import read_json, write_json

if TYPE_CHECKING:
    from mice_st.commands.evaluate import EvaluateOptions

# What the results in one folder have to have in common.
SETTING = ("first_stage", "top_k", "queries", "seed")


def evaluate_with_mteb(options: EvaluateOptions) -> dict[str, Any]:
    """Measure every system on every task of the suite, and write mteb's results and the figures of every query.

    What was measured before with the same model, codec, candidates and judgements is read from the cache.

    Args:
        options: The options. ``bm25`` among the models stands for the first stage itself, whatever it is.

    Returns:
        As ``evaluate`` does; ``sets`` also has ``first_stage``, its ``recall``, the ``ceiling`` of a perfect re-ranking (nDCG@10),
        ``queries_without_candidates`` and what mteb calls the ``main_score``.

    Raises:
        OSError: If a model or a task's data is missing.
        ValueError: If the output's folder holds results of another first stage or depth, or as ``load_tasks``, ``find_candidates`` and
            ``measure``.
    """
    output = Path(options.output)
    cache = Path(options.cache or f"{options.output}.cache")
    codecs = options.codecs or ["fp32"]
    systems = list_systems(options.model, codecs, options.device, options.max_length)
    tree = output.with_suffix(".mteb")
    _refuse_other_setting(tree / "setting.json", {name: getattr(options, name) for name in SETTING})
    sets: list[dict[str, Any]] = []
    rows: dict[str, dict[str, dict[str, Any]]] = {system.name: {} for system in systems}
    per_query: list[list[Any]] = []
    for entry in load_tasks(options.suite, options.queries or None, options.seed):
        candidates = find_candidates(entry, options.first_stage, options.top_k, cache)
        first: dict[str, Any] = {}
        for system in tqdm(systems, desc=entry.collection.name, unit="system", delay=2, leave=False):
            kept = _measure(system, entry, candidates, cache, options)
            first = first or kept
            rows[system.name][entry.collection.name] = kept["figures"]
            _write_result(tree, kept)
            per_query += [
                [system.name, entry.group, entry.collection.name, query_id, *figures]
                for query_id, figures in kept["per_query"].items()
            ]
        sets.append(_describe(entry, candidates, first))
    write_per_query(output, per_query)
    return {
        "options": asdict(options),
        "sets": sets,
        "systems": [
            {"name": system.name, "sets": rows[system.name], "groups": _group_means(rows[system.name], sets)}
            for system in systems
        ],
    }


def _measure(
    system: System, entry: SuiteTask, candidates: TaskCandidates, cache: Path, options: EvaluateOptions
) -> dict[str, Any]:
    """What one system reached on one task, measured now or kept from before."""
    source = system.source
    revision = candidates.key[:40] if source == BM25_NAME else model_revision(source)
    identity = [source == BM25_NAME, revision, system.codec, options.max_length, candidates.key, entry.collection.name]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache / "figures" / f"{entry.collection.name}-{key[:16]}.json"
    kept = read_json(path) if path.is_file() else {}
    if kept.get("key") == key:
        return kept
    model, meta = _load(system, candidates, revision, options)
    start = perf_counter()
    measured = measure(entry, candidates, model, options.batch_size)
    kept = {
        "key": key,
        "meta": meta.to_dict() | {"loader": None},
        "figures": _figures(entry, measured) | {"seconds": perf_counter() - start},
        "per_query": {
            query_id: query_figures(one, measured.ceiling.per_query[query_id].ndcg_at_10)
            for query_id, one in measured.figures.per_query.items()
        },
        "result": measured.result,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, kept)
    return kept


def _load(system: System, candidates: TaskCandidates, revision: str, options: EvaluateOptions) -> tuple[Any, Any]:
    """The model as mteb takes it, and its metadata."""
    if system.source != BM25_NAME:
        return load_for_mteb(
            system.source, options.device, options.max_length, system.codec or "fp32", options.trust_remote_code
        )
    name = candidates.first_stage.replace(" ", "-").replace("'", "")
    name = name if name.count("/") == 1 else f"local/{name}"
    meta = import_mteb().models.ModelMeta.create_empty({"name": name, "revision": revision})
    return FixedRun(candidates.run, meta), meta


def _figures(entry: SuiteTask, measured: TaskMeasurement) -> dict[str, float]:
    """Our metrics, the ceiling of nDCG@10, and the figure that mteb's leaderboard shows."""
    figures = measured.figures
    return {
        "ndcg@10": figures.ndcg_at_10,
        "mrr@10": figures.mrr_at_10,
        "map": figures.map,
        "recall": figures.recall,
        "ceiling": measured.ceiling.ndcg_at_10,
        "main_score": main_score(entry, measured.result),
    }


def _describe(entry: SuiteTask, candidates: TaskCandidates, kept: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry.collection.name,
        "group": entry.group,
        "documents": len(entry.collection.corpus),
        "queries": len(entry.collection.qrels),
        "queries_without_candidates": len(candidates.queries_without),
        "first_stage": candidates.first_stage,
        "recall": kept["figures"]["recall"],
        "ceiling": kept["figures"]["ceiling"],
        "main_score": entry.task.metadata.main_score,
    }


def _group_means(rows: dict[str, dict[str, Any]], sets: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names: dict[str, list[str]] = {}
    for entry in sets:
        names.setdefault(entry["group"], []).append(entry["name"])
    return {
        group: {metric: mean(rows[name][metric] for name in members) for metric in QUERY_METRICS}
        for group, members in names.items()
    }


def _write_result(tree: Path, kept: dict[str, Any]) -> None:
    """One result in mteb's tree of results."""
    mteb = import_mteb()
    meta = mteb.models.ModelMeta.model_validate({key: kept["meta"][key] for key in mteb.models.ModelMeta.model_fields})
    mteb.ResultCache(tree).save_to_cache(to_task_result(kept["result"]), meta)


def _refuse_other_setting(file: Path, setting: dict[str, Any]) -> None:
    """Results of one depth and first stage beside those of another would be taken for comparable."""
    if file.is_file():
        for name, kept in read_json(file).items():
            if kept != setting.get(name):
                raise ValueError(
                    f"{file.parent}: holds results with {name} {kept}, not {setting.get(name)}; give another output"
                )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, setting)
