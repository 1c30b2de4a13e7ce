"""The command ``mice-st evaluate``: several systems on the sets of a suite, in one table and one JSON file.

The sets of the suite ``dev`` are read by this package; those of all others are tasks of mteb, through ``MtebSuite``.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mice_st.commands.checks import FIRST_STAGE
from mice_st.commands.judging import check_threshold, ignore_identical_ids_flag, relevance_threshold_flag, strict_flag
from mice_st.files import read_json, write_json
from mice_st.loading import resolve_model

if TYPE_CHECKING:
    from mice_st.evaluation.mteb_adapter import MtebSuite

# Names of ``SUITES`` and ``MTEB_SUITES``: a help text must not import what they are made of.
SUITE_NAMES = ("dev", "paper", "paper-id", "paper-ood", "nanobeir", "mteb-eng-v2-rerank", "python-docs")
# Settings that the figures of one output file have in common.
SETTINGS = ("suite", "top_k", "queries", "seed", "first_stage", "max_length")
# Further ones, recorded only where they are not at their defaults: files of earlier versions do not have them.
NEW_SETTINGS = {"strict": False, "ignore_identical_ids": False, "relevance_threshold": 1}


@dataclass
class EvaluateOptions:
    """Re-rank a first stage's candidates on the sets of a suite.

    Raises:
        FileNotFoundError: If a model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range or the suite is unknown.
    """

    model: list[str] = field(
        metadata={
            "help": "Folders, Hub ids or names of released models: MICE, cross-encoders, bi-encoders or ColBERT; bm25 is the first stage.",
            "metavar": "MODEL",
        }
    )
    output: str = field(
        metadata={
            "help": "JSON file for the figures; those of every query lie beside it. Through mteb, also tables, a picture and mteb's "
            "results.",
            "metavar": "FILE",
        }
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "Folder of BEIR folders or their archives (NAME.tar.gz), for the suite dev.",
            "metavar": "FOLDER",
        },
    )
    suite: str = field(
        default="dev",
        metadata={
            "help": f"Suite of sets: {', '.join(SUITE_NAMES)}, folder:PATH[:SPLITS], or a task of mteb.",
            "metavar": "SUITE",
        },
    )
    sets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Suite dev: measure only these of its sets, by their names (default: all).",
            "metavar": "NAME",
        },
    )
    first_stage: str = field(
        default=FIRST_STAGE,
        metadata={
            "help": "Source of the candidates: bm25 (without stemming), a model of mteb such as mteb/baseline-bm25s, a "
            "run file in TREC format, or a folder with TASK.trec for each task."
        },
    )
    top_k: int = field(default=100, metadata={"help": "Candidates of a query; tasks that bring their own keep them."})
    queries: int | None = field(
        default=None, metadata={"help": "Queries of each set, drawn with the seed; 0 takes all (default: all)."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawing."})
    codecs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Types of MICE's stored states: fp32, fp16, int8, int4; a row for each (default: fp16 for dev, fp32 "
            "through mteb, where it changes no score).",
            "metavar": "CODEC",
        },
    )
    time_queries: int = field(
        default=3,
        metadata={
            "help": "Suite dev: time this many queries of each set, all systems taking turns, documents encoded beforehand where a "
            "model can; 0 times nothing. The same command again keeps the figures and times anew."
        },
    )
    threads: int | None = field(default=None, metadata={"help": "Suite dev: threads of torch (default: torch's own)."})
    relevance_threshold: int = relevance_threshold_flag()
    ignore_identical_ids: bool = ignore_identical_ids_flag()
    strict: bool = strict_flag()
    max_length: int | None = field(
        default=None, metadata={"help": "Longest document or pair, in tokens (default: the model's own)."}
    )
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    device: str | None = field(
        default=None, metadata={"help": "Device that models compute on (default: the best there is)."}
    )
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
            "(default: beside the output).",
            "metavar": "FOLDER",
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that lies beside the weights of models; MICE never needs it."}
    )

    def __post_init__(self) -> None:
        from mice_st.evaluation.suites import SUITES  # only once the flags are known to be right

        self.model = [resolve_model(name) for name in self.model]
        check_threshold(self.relevance_threshold)
        if self.time_queries < 0:
            raise ValueError(f"time_queries: must be at least 0, got {self.time_queries}")
        for name in ("top_k", "batch_size", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.queries is not None and self.queries < 0:
            raise ValueError(f"queries: must be at least 1, or 0 for all, got {self.queries}")
        if self.sets is not None:
            known = [entry.name for entry in SUITES.get(self.suite, ())]
            if unknown := [name for name in self.sets if name not in known]:
                raise ValueError(
                    f"sets: the suite {self.suite} has no {', '.join(unknown)}; it has {', '.join(known) or 'none by name'}"
                )
        if self.suite in SUITES:
            if self.data is None:
                raise ValueError(f"data: the suite {self.suite} needs the folder of its sets")
            if self.stock:
                raise ValueError(f"stock: the suite {self.suite} is not measured through mteb")
            if self.first_stage != FIRST_STAGE:
                raise ValueError(
                    f"first_stage: the candidates of the suite {self.suite} are always those of {FIRST_STAGE}"
                )


def run_evaluate(options: EvaluateOptions) -> None:
    """Evaluate, write the files and print the table."""
    from mice_st.evaluation.mteb_stock import compare_with_stock, format_stock
    from mice_st.evaluation.plots import plot_suite
    from mice_st.evaluation.tables import format_sets, format_table, write_tables

    output = Path(options.output)
    results, suite = measure_suite(options)
    if suite is not None:
        write_tables(results, output)
        plot_suite(results, output.with_suffix(".png"))
        print(format_sets(results) + "\n")
        if options.stock:
            lengths = (options.device, options.max_length, options.batch_size)
            results["stock"] = compare_with_stock(options.model, suite.tasks(), *lengths)
            print(format_stock(results["stock"]) + "\n")
    write_json(output, results)
    print(format_table(results))


def measure_suite(options: EvaluateOptions) -> tuple[dict[str, Any], MtebSuite | None]:
    """Measure all systems on the sets of the suite.

    Returns:
        The results of ``evaluate`` with the ``options``, and the suite where it is one of mteb's.
    """
    from mice_st.evaluation.mteb_adapter import MtebSuite
    from mice_st.evaluation.pipeline import EvaluationSettings, evaluate
    from mice_st.evaluation.suites import SUITES, load_suite
    from mice_st.evaluation.systems import list_systems
    from mice_st.model_folder import shorten_paths

    cache = cache_of(options)
    is_own = options.suite in SUITES
    codecs = options.codecs or ["fp16" if is_own else "fp32"]
    systems = list_systems(options.model, codecs, options.device, options.max_length, options.trust_remote_code)
    settings = EvaluationSettings(
        output=Path(options.output),
        cache=cache,
        batch_size=options.batch_size,
        time_queries=options.time_queries if is_own else 0,
        seed=options.seed,
        threads=options.threads,
        relevance_threshold=options.relevance_threshold,
    )
    judging = (options.strict, options.ignore_identical_ids)
    drawing = (options.top_k, options.queries or None, options.seed)
    suite = None
    if is_own:
        sets = load_suite(options.suite, Path(options.data or ""), cache, *drawing, options.sets, *judging)
    else:
        suite = MtebSuite(
            options.suite, options.first_stage, *drawing, cache, Path(options.output).with_suffix(".mteb"), *judging
        )
        sets = suite.sets()
    results = evaluate(systems, sets, settings, suite)
    recorded = {name: value for name, value in asdict(options).items() if value != NEW_SETTINGS.get(name, MISSING)}
    return {"options": {name: shorten_paths(value) for name, value in recorded.items()}, **results}, suite


def cache_of(options: EvaluateOptions) -> Path:
    """The folder of finished figures."""
    return Path(options.cache or f"{options.output}.cache")


def existing_results(options: EvaluateOptions) -> str | None:
    """Name output that this evaluation would not merely renew: figures of other settings, or of systems that it leaves out."""
    path = Path(options.output)
    if not path.exists():
        return None
    try:
        before = read_json(path)["options"]
        models = [Path(name).name for name in before["model"]]
    except (ValueError, KeyError, TypeError, OSError):
        return f"{path} exists and was not written by mice-st evaluate"
    changed = [name for name in SETTINGS if (before.get(name) or None) != (getattr(options, name) or None)]
    changed += [
        name
        for name, default in NEW_SETTINGS.items()
        if name != "strict" and before.get(name, default) != getattr(options, name)
    ]
    if changed:
        return f"{path} holds figures with another {', '.join(changed)}"
    gone = [name for name in models if name not in {Path(model).name for model in options.model}]
    return f"{path} also holds figures of {', '.join(gone)}" if gone else None


def saved_figures(options: EvaluateOptions) -> str | None:
    """Count the figures in the cache."""
    done = len(list((cache_of(options) / "figures").glob("*.json")))
    return f"{done} finished figures are in {cache_of(options)}, the same command measures the rest" if done else None
