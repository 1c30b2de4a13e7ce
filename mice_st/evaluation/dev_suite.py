"""Several systems on the sets of the suite ``dev``: measured once, kept, with the figures of every query and what each system costs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from mice_st.data.first_stage import Run
from mice_st.evaluation.cost import describe_timing, measure_costs, use_threads
from mice_st.evaluation.metrics import QueryMetrics, evaluate_run
from mice_st.evaluation.per_query import find_ceilings, query_figures, write_per_query
from mice_st.evaluation.reranking import encode_candidates, rank_candidates
from mice_st.evaluation.suites import CandidateSet, load_suite
from mice_st.evaluation.systems import System, list_systems
from mice_st.files import read_json, write_json
from mice_st.model_folder import shorten_paths

if TYPE_CHECKING:
    from mice_st.commands.evaluate import EvaluateOptions

METRICS = ("ndcg@10", "mrr@10", "recall")


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measure every system on every set of the suite ``dev``, write the figures of every query, and time the systems.

    What was measured before with the same model, codec, candidates and judgements is read from the cache; times are taken anew.

    Args:
        options: The options.

    Returns:
        ``options``; ``sets``, with ``name``, ``group``, ``documents`` and ``queries``; ``systems``, with ``name``, ``kind``, ``sets`` (set ->
        metric -> figure), ``groups`` (group -> metric -> mean over its sets) and, where times were taken, ``ms_per_query`` and
        ``bytes_per_token`` (see ``measure_costs``); ``timing``, what they were taken under, or None.

    Raises:
        FileNotFoundError: If a model or a set is missing.
        ValueError: If a model or a set is bad, or a score is not finite.
    """
    cache = Path(options.cache or f"{options.output}.cache")
    systems = list_systems(
        options.model, options.codecs or ["fp16"], options.device, options.max_length, options.trust_remote_code
    )
    suite = list(
        load_suite(
            options.suite,
            Path(options.data or ""),
            cache,
            options.top_k,
            options.queries or None,
            options.seed,
            options.sets,
        )
    )
    kept: dict[str, dict[str, dict[str, Any]]] = {system.name: {} for system in systems}
    costs: dict[str, dict[str, float | None]] = {}
    timing = None
    with use_threads(options.threads or torch.get_num_threads()):
        with tqdm(total=len(systems) * len(suite), desc="Evaluation", unit="set", delay=2, leave=False) as progress:
            for source in dict.fromkeys(system.source for system in systems):  # one model in memory at a time
                members = [system for system in systems if system.source == source]
                _measure(members, suite, cache, options.batch_size, kept, progress)
        _write_queries(Path(options.output), suite, kept)
        if options.time_queries:
            timing = describe_timing(options.time_queries)
            costs = measure_costs(systems, suite, options.time_queries, options.seed, options.batch_size)
    figures = {
        name: {set_name: found["figures"] for set_name, found in measured.items()} for name, measured in kept.items()
    }
    groups = list(dict.fromkeys(entry.group for entry in suite))
    return {
        "options": {name: shorten_paths(value) for name, value in asdict(options).items()},
        "sets": [
            {
                "name": entry.collection.name,
                "group": entry.group,
                "documents": len(entry.collection.corpus),
                "queries": len(entry.collection.qrels),
            }
            for entry in suite
        ],
        "systems": [
            {
                "name": system.name,
                "kind": system.kind,
                "sets": figures[system.name],
                "groups": {group: _group_means(figures[system.name], suite, group) for group in groups},
                **costs.get(system.name, {}),
            }
            for system in systems
        ],
        "timing": timing,
    }


def _measure(
    members: list[System],
    suite: list[CandidateSet],
    cache: Path,
    batch_size: int,
    kept: dict[str, dict[str, dict[str, Any]]],
    progress: tqdm,
) -> None:
    """Put what the systems of one model reach into ``kept``: system -> set -> ``figures`` and ``per_query``.

    The model is loaded with the first set that was not measured before; its documents are encoded once for all codecs.
    """
    model = None
    for entry in suite:
        name = entry.collection.name
        keys = {
            system.name: hashlib.sha256(f"{system.identity}/{entry.key}".encode()).hexdigest() for system in members
        }
        paths = {system: cache / "figures" / f"{name}-{key[:16]}.json" for system, key in keys.items()}
        for system in members:
            found = read_json(paths[system.name]) if paths[system.name].is_file() else {}
            if found.get("key") == keys[system.name] and "per_query" in found:  # earlier versions kept other figures
                kept[system.name][name] = found
        missing = [system for system in members if name not in kept[system.name]]
        progress.set_postfix_str(f"{members[0].name}, {name}")
        if missing:
            if model is None:
                model = missing[0].load()
            for system, run in _rerank(model, missing, entry, batch_size):
                made = {"key": keys[system.name], "system": system.name, **_figures(entry, run)}
                kept[system.name][name] = made
                paths[system.name].parent.mkdir(parents=True, exist_ok=True)
                write_json(paths[system.name], made)
        progress.update(len(members))


def _rerank(model: Any, systems: list[System], entry: CandidateSet, batch_size: int) -> Iterator[tuple[System, Run]]:
    """The run of each system of one model."""
    if model is None:  # the first stage itself
        yield from ((system, entry.candidates) for system in systems)
        return
    shared = (model, entry.collection, entry.candidates)
    codecs = [system.codec or "fp16" for system in systems]
    encoded = encode_candidates(*shared, codecs, batch_size)
    for system, codec in zip(systems, codecs, strict=True):
        yield system, rank_candidates(*shared, encoded[codec], batch_size)


def _figures(entry: CandidateSet, run: Run) -> dict[str, Any]:
    """The means over the queries, and the figures of each query but its ceiling."""
    measured = evaluate_run(entry.collection.qrels, run)
    return {
        "figures": dict(zip(METRICS, (measured.ndcg_at_10, measured.mrr_at_10, measured.recall), strict=True)),
        "per_query": {query_id: asdict(one) for query_id, one in measured.per_query.items()},
    }


def _write_queries(output: Path, suite: list[CandidateSet], kept: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write the figures of every query beside the output, for ``mice-st compare``."""
    ceilings = {entry.collection.name: find_ceilings(entry.collection.qrels, entry.candidates) for entry in suite}
    write_per_query(
        output,
        [
            [system, entry.group, name, query_id, *query_figures(QueryMetrics(**one), ceilings[name][query_id])]
            for system, measured in kept.items()
            for entry in suite
            for name in [entry.collection.name]
            for query_id, one in measured[name]["per_query"].items()
        ],
    )


def _group_means(figures: dict[str, dict[str, float]], suite: list[CandidateSet], group: str) -> dict[str, float]:
    names = [entry.collection.name for entry in suite if entry.group == group]
    return {metric: mean(figures[name][metric] for name in names) for metric in METRICS}
