"""``mice-st evaluate``: several systems on the sets of a suite, in one table and one JSON file.

The suite ``dev`` is measured in ``dev_suite``; all others go through mteb, in ``mteb_suite``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mice_st.commands.checks import FIRST_STAGE
from mice_st.files import read_json, write_json
from mice_st.loading import resolve_model

# Names of ``SUITES`` and ``MTEB_SUITES``: a help text must not import what they are made of.
SUITE_NAMES = ("dev", "paper", "paper-id", "paper-ood", "nanobeir", "mteb-eng-v2-rerank", "python-docs")
# Settings that the figures of one output file have in common.
SETTINGS = ("suite", "top_k", "queries", "seed", "first_stage", "max_length")


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
    from mice_st.evaluation.dev_suite import evaluate
    from mice_st.evaluation.mteb_stock import compare_with_stock, format_stock
    from mice_st.evaluation.mteb_suite import evaluate_with_mteb
    from mice_st.evaluation.plots import plot_suite
    from mice_st.evaluation.suites import SUITES
    from mice_st.evaluation.tables import format_sets, format_table, write_tables

    output = Path(options.output)
    if options.suite in SUITES:
        results = evaluate(options)
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
    if changed:
        return f"{path} holds figures with another {', '.join(changed)}"
    gone = [name for name in models if name not in {Path(model).name for model in options.model}]
    return f"{path} also holds figures of {', '.join(gone)}" if gone else None


def saved_figures(options: EvaluateOptions) -> str | None:
    """Count the figures in the cache."""
    done = len(list((cache_of(options) / "figures").glob("*.json")))
    return f"{done} finished figures are in {cache_of(options)}, the same command measures the rest" if done else None
