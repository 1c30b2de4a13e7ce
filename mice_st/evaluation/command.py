"""``mice-st evaluate``: several systems on the sets of a suite, in one table and one JSON file.

The suite ``dev`` is measured here; all others go through mteb, in ``mteb_suite``.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm.auto import tqdm

from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.mteb_stock import compare_with_stock, format_stock
from mice_st.evaluation.mteb_suite import evaluate_with_mteb
from mice_st.evaluation.mteb_tasks import MTEB_SUITES
from mice_st.evaluation.plots import plot_suite
from mice_st.evaluation.suites import SUITES, CandidateSet, load_suite
from mice_st.evaluation.systems import BM25_NAME, System, list_systems
from mice_st.evaluation.tables import format_sets, format_table, write_tables
from mice_st.hub_folder import read_json, write_json
from mice_st.released import resolve_model

METRICS = ("ndcg@10", "mrr@10", "recall")


@dataclass
class EvaluateOptions:
    """Re-rank a first stage's candidates on the sets of a suite.

    Raises:
        FileNotFoundError: If a model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range or the suite is unknown.
    """

    model: list[str] = field(
        metadata={
            "help": "Folders, Hub ids or names of released models: MICE, cross-encoder, bi-encoder or ColBERT; bm25 for the first stage."
        }
    )
    output: str = field(
        metadata={
            "help": "JSON file for the figures. Through mteb, tables, a picture and mteb's results lie beside it."
        }
    )
    data: str | None = field(
        default=None, metadata={"help": "Folder of BEIR folders or their archives (NAME.tar.gz), for the suite dev."}
    )
    suite: str = field(
        default="dev",
        metadata={
            "help": f"Which sets: {', '.join([*SUITES, *MTEB_SUITES])}, folder:PATH[:SPLITS], or a task of mteb."
        },
    )
    first_stage: str = field(
        default=BM25_NAME,
        metadata={
            "help": "Where candidates come from: bm25 (without stemming), a model of mteb such as mteb/baseline-bm25s, a "
            "run file in TREC format, or a folder with TASK.trec for each task."
        },
    )
    top_k: int = field(default=100, metadata={"help": "Candidates of a query; tasks that bring theirs keep them."})
    queries: int | None = field(
        default=None, metadata={"help": "Queries of each set, drawn with the seed; 0 or nothing takes all."}
    )
    seed: int = field(default=0, metadata={"help": "Of the drawing."})
    codecs: list[str] | None = field(
        default=None,
        metadata={
            "help": "How MICE's states are kept: fp32, fp16, int8, int4; a row for each (default: fp16 for dev, fp32 "
            "through mteb, where it changes no score)."
        },
    )
    max_length: int | None = field(default=None, metadata={"help": "Longest document or pair, in tokens."})
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    device: str | None = field(default=None, metadata={"help": "Where models compute; by default the best there is."})
    stock: bool = field(
        default=False,
        metadata={
            "help": "Through mteb: also let its own wrapper around CrossEncoder, which runs the code in the model's folder, score the same "
            "candidates, and print both."
        },
    )
    cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for first-stage runs and finished figures, so that a killed evaluation goes on "
            "(default: beside the output)."
        },
    )

    def __post_init__(self) -> None:
        self.model = [resolve_model(name) for name in self.model]
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.queries is not None and self.queries < 0:
            raise ValueError(f"queries: must be at least 1, or 0 for all, got {self.queries}")
        if self.suite in SUITES:
            if self.data is None:
                raise ValueError(f"data: the suite {self.suite} needs the folder of its sets")
            if self.stock:
                raise ValueError(f"stock: the suite {self.suite} is not measured through mteb")
            if self.first_stage != BM25_NAME:
                raise ValueError(
                    f"first_stage: the candidates of the suite {self.suite} are always those of {BM25_NAME}"
                )


def run_evaluate(options: EvaluateOptions) -> None:
    """Evaluate, write the files and print the table."""
    output = Path(options.output)
    if options.suite in SUITES:
        results = evaluate(options)
        output.parent.mkdir(parents=True, exist_ok=True)
    else:
        results = evaluate_with_mteb(options)
        write_tables(results, output)
        plot_suite(results, output.with_suffix(".png"))
        print(format_sets(results) + "\n")
        if options.stock:
            results["stock"] = compare_with_stock(options)
            print(format_stock(results["stock"]) + "\n")
    write_json(output, results)
    print(format_table(results))


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measure every system on every set of the suite ``dev``.

    What was measured before with the same model, codec, candidates and judgements is read from the cache.

    Args:
        options: The options.

    Returns:
        ``options``; ``sets``, with ``name``, ``group``, ``documents`` and ``queries``; ``systems``, with ``name``, ``sets`` (set -> metric
        -> figure) and ``groups`` (group -> metric -> mean over its sets).

    Raises:
        FileNotFoundError: If a model or a set is missing.
        ValueError: If a model or a set is bad, or a score is not finite.
    """
    cache = Path(options.cache or f"{options.output}.cache")
    systems = list_systems(
        options.model, options.codecs or ["fp16"], options.batch_size, options.device, options.max_length
    )
    suite = list(
        load_suite(options.suite, Path(options.data or ""), cache, options.top_k, options.queries or None, options.seed)
    )
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tqdm(total=len(systems) * len(suite), desc="Evaluation", unit="set", delay=2, leave=False) as progress:
        for system in systems:  # one model in memory at a time
            figures[system.name] = _measure(system, suite, cache, progress)
    groups = list(dict.fromkeys(entry.group for entry in suite))
    return {
        "options": asdict(options),
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
                "sets": figures[system.name],
                "groups": {group: _group_means(figures[system.name], suite, group) for group in groups},
            }
            for system in systems
        ],
    }


def _measure(system: System, suite: list[CandidateSet], cache: Path, progress: tqdm) -> dict[str, dict[str, float]]:
    """Set -> metric -> figure. The model is loaded with the first set that was not measured before."""
    rerank = None
    figures = {}
    for entry in suite:
        name = entry.collection.name
        progress.set_postfix_str(f"{system.name}, {name}")
        key = hashlib.sha256(f"{system.identity}/{entry.key}".encode()).hexdigest()
        path = cache / "figures" / f"{name}-{key[:16]}.json"
        kept = read_json(path) if path.is_file() else {}
        if kept.get("key") != key:
            rerank = rerank or system.load()
            measured = evaluate_run(entry.collection.qrels, rerank(entry.collection, entry.candidates))
            kept = {
                "key": key,
                "system": system.name,
                "figures": dict(zip(METRICS, (measured.ndcg_at_10, measured.mrr_at_10, measured.recall), strict=True)),
                "ndcg@10 per query": {query_id: one.ndcg_at_10 for query_id, one in measured.per_query.items()},
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, kept)
        figures[name] = kept["figures"]
        progress.update()
    return figures


def _group_means(figures: dict[str, dict[str, float]], suite: list[CandidateSet], group: str) -> dict[str, float]:
    names = [entry.collection.name for entry in suite if entry.group == group]
    return {metric: mean(figures[name][metric] for name in names) for metric in METRICS}
