"""The command ``mice-st mine``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from mice_st.commands.judging import check_threshold, ignore_identical_ids_flag, relevance_threshold_flag, strict_flag
from mice_st.loading import resolve_model


@dataclass
class MineOptions:
    """Make training rows from collections.

    Raises:
        FileNotFoundError: If the teacher is a released model, and its weights are not on this machine.
        ValueError: If a number is out of range, or flags contradict each other.
    """

    data: list[str] = field(
        metadata={"help": "Collections: FOLDER or FOLDER:SPLIT+SPLIT (BEIR layout), or python-docs.", "metavar": "DATA"}
    )
    output: str = field(metadata={"help": "JSON Lines file for the rows.", "metavar": "FILE"})
    train_split: str = field(default="train", metadata={"help": "Split of a collection whose name gives none."})
    limit: int | None = field(
        default=None, metadata={"help": "Queries in all, as many from each collection, drawn with the seed."}
    )
    negatives: int = field(default=7, metadata={"help": "Negatives of each positive."})
    negatives_top_k: int = field(
        default=50, metadata={"help": "Best documents of each first stage that negatives are drawn from."}
    )
    found_positives: bool = field(
        default=False,
        metadata={"help": "Make rows only of relevant documents that are among these best."},
    )
    bi_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a bi-encoder (or all-MiniLM-L6-v2 in its wheel), a first stage beside BM25.",
            "metavar": "MODEL",
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Folder, Hub id or released model's name of a model that finds false negatives: documents that it scores nearly as high "
            "as a relevant one.",
            "metavar": "MODEL",
        },
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "Difference by which the teacher must score a negative below the lowest relevant document."},
    )
    query_source: Literal["judged", "pseudo"] = field(
        default="judged",
        metadata={
            "help": "Queries of the rows. judged: the collection's own, with their relevant documents. pseudo: titles and first sentences of "
            "its documents; the rows hold documents that nobody has judged, for mice-st label.",
            "aliases": ("queries",),  # its name in version 0.1.0
        },
    )
    relevance_threshold: int = relevance_threshold_flag()
    ignore_identical_ids: bool = ignore_identical_ids_flag()
    strict: bool = strict_flag()
    seed: int = field(default=0, metadata={"help": "Seed of every drawing."})
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    device: str | None = field(
        default=None, metadata={"help": "Device that models compute on (default: the best there is)."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that lies beside the weights of models; MICE never needs it."}
    )

    def __post_init__(self) -> None:
        for name in ("negatives", "negatives_top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        check_threshold(self.relevance_threshold)
        if self.query_source == "pseudo" and (
            self.relevance_threshold != 1 or self.ignore_identical_ids or self.strict
        ):
            raise ValueError(
                "relevance_threshold, ignore_identical_ids, strict: rows of pseudo queries come from no judgements"
            )
        if not math.isfinite(self.margin):
            raise ValueError(f"margin: must be finite, got {self.margin}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if self.bi_encoder is not None:
            self.bi_encoder = resolve_model(self.bi_encoder)
        if self.teacher is not None:
            self.teacher = resolve_model(self.teacher)
        if self.query_source == "pseudo" and self.teacher is not None:
            raise ValueError(
                "teacher: rows of pseudo queries are judged by mice-st label; there are no negatives to filter"
            )


def run_mine(options: MineOptions) -> None:
    """Mine, and print how many rows there are."""
    from mice_st.training.mined_rows import MineJob, mine

    rows = mine(MineJob(**vars(options)))
    print(f"{options.output}: {rows} rows from {', '.join(options.data)}")
