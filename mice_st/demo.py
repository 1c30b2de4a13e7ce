"""``mice-st demo``: the released model on real documents (``demo_released``), or a model of the demo's own (``demo_training``).

Nothing is downloaded: the released model lies in the repository, the collection is the installed Python's own documentation,
the bi-encoder comes in a wheel. Every figure is measured in the run that prints it. Here is what both halves share.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.metrics import RunMetrics
from mice_st.evaluation.quiet import errors_only
from mice_st.first_stage import Run
from mice_st.hub.verification import run_doors

QUERIES = 100


@dataclass
class DemoOptions:
    """Rank with the released model, and compare it with BM25 and its backbone; or train one.

    Raises:
        ValueError: If a number is below 1.
    """

    output: str = field(default="demo_output", metadata={"help": "Folder for what the demo writes."})
    train: bool = field(
        default=False,
        metadata={"help": "Convert, train and compare models of the demo's own instead, in about seven minutes."},
    )
    test_queries: int | None = field(
        default=None, metadata={"help": f"Test queries (default: {QUERIES}, and all of them with --train true)."}
    )
    seed: int = field(default=0, metadata={"help": "With --train true: of everything that is drawn."})
    training_seconds: float = field(
        default=70.0, metadata={"help": "With --train true: training time of each of the two models."}
    )
    cross_encoder_queries: int = field(
        default=20,
        metadata={"help": "With --train true: test queries that the cross-encoder re-ranks; one takes it seconds."},
    )

    def __post_init__(self) -> None:
        for name in ("test_queries", "cross_encoder_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")


@errors_only()
def run_demo(options: DemoOptions) -> None:
    """Run the demo and print its table; see ``DemoOptions``."""
    from mice_st.demo_released import show_released_model  # both need this module
    from mice_st.demo_training import show_training

    transformers.utils.logging.disable_progress_bar()
    Path(options.output).mkdir(parents=True, exist_ok=True)
    (show_training if options.train else show_released_model)(options)


def check_hub_folder(folder: str | Path, model: MiceCrossEncoder, query: str, texts: list[str]) -> None:
    """Load the folder without mice-st in a fresh process, compare scores, and print how far they are apart.

    Raises:
        ValueError: If that process fails, or a score differs by more than 1e-5 times the larger of 1 and itself.
    """
    pairs = [[query, text] for text in texts]
    ours = model.predict(pairs).tolist()
    for door, scores in run_doors(str(folder), None, pairs).items():
        difference = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(scores, ours, strict=True))
        if difference > 1e-5:
            raise ValueError(f"{folder}: scores of {door} differ by {difference}")
        print(f"   {door}: largest difference of {len(texts)} scores {difference:.1e}")


def largest_difference(texts: Run, stored: Run) -> float:
    """Scores from float16 states against scores from texts: rounding apart, the same.

    Raises:
        ValueError: If they differ by more than rounding does.
    """
    worst = max(abs(score - stored[query][item]) for query, scores in texts.items() for item, score in scores.items())
    if worst > 0.05:
        raise ValueError(f"scores from stored states differ from scores from texts by {worst}")
    return worst


def make_row(name: str, metrics: RunMetrics, milliseconds: float) -> dict[str, Any]:
    """One row of a table."""
    return {
        "system": name,
        "ndcg@10": round(metrics.ndcg_at_10, 4),
        "mrr@10": round(metrics.mrr_at_10, 4),
        "ms_per_query": round(milliseconds, 2),
        "queries": len(metrics.per_query),
    }


def describe_machine() -> dict[str, Any]:
    """What times depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
