"""The evaluation: systems re-rank the candidates of sets; figures of sets and queries are kept, and costs measured.

Where sets come from is no matter of this module: they are ``CandidateSet`` objects, of the suites of this package
(``suites``) or of mteb's tasks (``mteb_adapter``). One set at a time is in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from tqdm.auto import tqdm

from mice_st.data.runs import Run
from mice_st.evaluation.cost import Costs, describe_timing, use_threads
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.per_query import (
    QUERY_METRICS,
    find_ceilings,
    mean_figures,
    query_figures,
    write_per_query,
)
from mice_st.evaluation.reranking import rerank
from mice_st.evaluation.suites import CandidateSet
from mice_st.evaluation.systems import BM25_NAME, System
from mice_st.files import read_json, write_json

# A part of the name of kept figures; a change makes older ones unreadable.
FIGURES_FORMAT = "figures 3"


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation that are neither its systems nor its sets.

    Attributes:
        output: JSON file of the results; the figures of every query are written beside it.
        cache: Folder for finished figures, so that a killed evaluation goes on.
        batch_size: Pairs or texts computed at a time.
        time_queries: Queries of each set that are timed; 0 times nothing.
        seed: Of the drawing of these.
        threads: Threads of torch; None leaves them as they are.
        relevance_threshold: Lowest grade that is relevant, for all figures but nDCG.
    """

    output: Path
    cache: Path
    batch_size: int = 64
    time_queries: int = 0
    seed: int = 0
    threads: int | None = None
    relevance_threshold: int = 1


class Recorder:
    """Keeps other results beside our figures; this one keeps none."""

    def describe(self, entry: CandidateSet) -> dict[str, Any]:
        """Further fields of a set in the results."""
        return {}

    def record(self, system: System, model: Any, entry: CandidateSet, run: Run, seconds: float) -> dict[str, Any]:
        """Further fields of a measurement, which JSON must hold; ``figures`` among them are added to ours.

        Args:
            system: The system.
            model: Its model; None for the first stage.
            entry: The set.
            run: Its ranking.
            seconds: Time that it took, encoding included.
        """
        return {}

    def write(self, kept: dict[str, Any]) -> None:
        """Write the fields of a measurement, made now or read from the cache."""


def evaluate(
    systems: Sequence[System],
    sets: Iterable[CandidateSet],
    settings: EvaluationSettings,
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Measure every system on every set, write the figures of every query, and time the systems.

    Figures of the same model, codec, candidates and judgements are read from the cache; times are taken anew.

    Args:
        systems: What re-ranks; ``bm25`` stands for the first stage itself, whatever it is.
        sets: What is re-ranked, read one after the other.
        settings: Files, batches and times.
        recorder: Keeps other results beside ours.

    Returns:
        ``sets``, with ``name``, ``group``, ``documents``, ``queries``, ``queries_without_candidates``, ``first_stage``,
        its ``recall``, the ``ceiling`` of a perfect re-ranking (nDCG@10), and the set's ``counts``; ``systems``, with ``name``, ``kind``,
        ``sets`` (set -> metric -> figure), ``groups`` (group -> metric -> mean over its sets) and, where times were
        taken, ``ms_per_query`` and ``bytes_per_token`` (see ``Costs``); ``timing``, what they were taken under, or
        None.

    Raises:
        FileNotFoundError: If a model or a set is missing.
        ValueError: If a model or a set is bad, or a score is not finite.
    """
    recorder = recorder or Recorder()
    models: dict[str, Any] = {}  # of all systems once they were needed: they take turns at each set
    described: list[dict[str, Any]] = []
    figures: dict[str, dict[str, dict[str, float]]] = {system.name: {} for system in systems}
    per_query: dict[str, list[list[Any]]] = {system.name: [] for system in systems}
    timing = None
    with use_threads(settings.threads or torch.get_num_threads()):
        costs = Costs(settings.time_queries, settings.seed, settings.batch_size)
        if settings.time_queries:
            timing = describe_timing(settings.time_queries)
        for entry in sets:
            name = entry.collection.name
            measured = _measure_set(systems, entry, models, settings, recorder)
            for system in systems:
                kept = measured[system.name]
                figures[system.name][name] = kept["figures"]
                per_query[system.name] += [
                    [system.name, entry.group, name, query_id, *values]
                    for query_id, values in kept["per_query"].items()
                ]
                recorder.write(kept)
            described.append(_describe(entry, measured[systems[0].name]["figures"]) | recorder.describe(entry))
            if settings.time_queries:
                costs.measure(systems, _load_all(systems, models), entry)
    write_per_query(settings.output, (row for rows in per_query.values() for row in rows))
    return {
        "sets": described,
        "systems": [
            {
                "name": system.name,
                "kind": system.kind,
                "sets": figures[system.name],
                "groups": _group_means(figures[system.name], described),
                **(costs.of(system) if settings.time_queries else {}),
            }
            for system in systems
        ],
        "timing": timing,
    }


def _load_all(systems: Sequence[System], models: dict[str, Any]) -> dict[str, Any]:
    """The models of all systems by their source, loaded where they are not there yet."""
    for system in systems:
        if system.source not in models:
            models[system.source] = system.load()
    return models


def _measure_set(
    systems: Sequence[System],
    entry: CandidateSet,
    models: dict[str, Any],
    settings: EvaluationSettings,
    recorder: Recorder,
) -> dict[str, dict[str, Any]]:
    """System -> ``figures``, ``per_query`` and the recorder's fields, measured now or kept from before.

    A model is loaded where something of it was not measured before; its documents are encoded once for all codecs.
    """
    measured: dict[str, dict[str, Any]] = {}
    name = entry.collection.name
    with tqdm(total=len(systems), desc=name, unit="system", delay=2, leave=False) as progress:
        for source in dict.fromkeys(system.source for system in systems):
            members = [system for system in systems if system.source == source]
            files = {system.name: _file_of(system, entry, settings) for system in members}
            for system in members:
                path, key = files[system.name]
                kept = read_json(path) if path.is_file() else {}
                if kept.get("key") == key and "per_query" in kept:
                    measured[system.name] = kept
            missing = [system for system in members if system.name not in measured]
            if missing:
                model = _load_all(missing, models)[source]
                began = perf_counter()
                try:
                    runs = _runs(model, missing, entry, settings.batch_size)
                except ValueError as error:
                    raise ValueError(f"{missing[0].name} on {name}: {error}") from error
                seconds = perf_counter() - began
                for system in missing:
                    path, key = files[system.name]
                    run = runs[system.name]
                    made = {"key": key, "system": system.name, **_figures(entry, run, settings.relevance_threshold)}
                    extra = recorder.record(system, model, entry, run, seconds)
                    made["figures"] |= extra.pop("figures", {})
                    measured[system.name] = made | extra
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, measured[system.name])
            progress.update(len(members))
    return measured


def _file_of(system: System, entry: CandidateSet, settings: EvaluationSettings) -> tuple[Path, str]:
    """The file of a system's figures on a set, and the key that it must hold."""
    made_with = f"{FIGURES_FORMAT}/{system.identity}/{entry.key}/{settings.relevance_threshold}"
    key = hashlib.sha256(made_with.encode()).hexdigest()
    return settings.cache / "figures" / f"{entry.collection.name}-{key[:16]}.json", key


def _runs(model: Any, systems: Sequence[System], entry: CandidateSet, batch_size: int) -> dict[str, Run]:
    """The ranking of each system of one model."""
    if systems[0].source == BM25_NAME:  # the first stage itself
        return {system.name: entry.candidates for system in systems}
    codecs = [system.codec or "fp32" for system in systems]
    runs = rerank(model, entry.collection, entry.candidates, codecs, batch_size)
    return {system.name: runs[codec] for system, codec in zip(systems, codecs, strict=True)}


def _figures(entry: CandidateSet, run: Run, relevance_threshold: int) -> dict[str, Any]:
    """The means over the queries, and the figures of each query in the order of ``QUERY_METRICS``."""
    measured = evaluate_run(entry.collection.qrels, run, relevance_threshold)
    ceilings = find_ceilings(entry.collection.qrels, entry.candidates)
    return {
        "figures": mean_figures(measured, fmean(ceilings.values())),
        "per_query": {query_id: query_figures(one, ceilings[query_id]) for query_id, one in measured.per_query.items()},
    }


def _describe(entry: CandidateSet, figures: dict[str, float]) -> dict[str, Any]:
    """A set in the results; recall and ceiling are those of its candidates, the same whoever orders them."""
    return {
        "name": entry.collection.name,
        "group": entry.group,
        "documents": len(entry.collection.corpus),
        "queries": len(entry.collection.qrels),
        "queries_without_candidates": len(entry.queries_without_candidates),
        "first_stage": entry.first_stage,
        "recall": figures["recall"],
        "ceiling": figures["ceiling"],
        **entry.counts,
    }


def _group_means(
    figures: dict[str, dict[str, float]], described: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Group -> metric -> mean over its sets."""
    names: dict[str, list[str]] = {}
    for entry in described:
        names.setdefault(entry["group"], []).append(entry["name"])
    return {
        group: {metric: fmean(figures[name][metric] for name in members) for metric in QUERY_METRICS}
        for group, members in names.items()
    }
