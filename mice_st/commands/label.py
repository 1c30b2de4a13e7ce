"""The command ``mice-st label``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mice_st.loading import resolve_model


@dataclass
class LabelOptions:
    """Score the documents of training rows by one or several teachers.

    Raises:
        FileNotFoundError: If a teacher is a released model, and its weights are not on this machine.
        ValueError: If a number is out of range.
    """

    teacher: list[str] = field(
        metadata={
            "help": "Folders, Hub ids or names of released models: cross-encoders, MICE, bi-encoders. Of several, standardised scores are "
            "averaged.",
            "metavar": "MODEL",
        }
    )
    data: list[str] = field(
        metadata={
            "help": "JSON Lines files: query, positive and negatives, or query and documents (as mice-st mine writes them).",
            "metavar": "FILE",
        }
    )
    output: str = field(
        metadata={
            "help": "File for the same rows with scores: JSON Lines, or Parquet if its name ends in .parquet.",
            "metavar": "FILE",
        }
    )
    limit: int | None = field(default=None, metadata={"help": "Label only the first rows of each file."})
    standardize: bool = field(
        default=False,
        metadata={
            "help": "Standardise the scores of a single teacher too: mean 0 and standard deviation 1 for each query."
        },
    )
    stored_states_file: str | None = field(
        default=None,
        metadata={
            "metavar": "STORE",
            "help": "Store for the document states of the one MICE among the teachers: each text is encoded once, and training from frozen "
            "layers that starts as this teacher reads the same file.",
        },
    )
    positive_bonus: float = field(
        default=0.0,
        metadata={
            "help": "Number added to the score of each row's positive (not of documents that nobody judged), so that the student learns "
            "the judgement and keeps the teacher's order of all else."
        },
    )
    processes: int = field(
        default=1, metadata={"help": "Processes, each with the teachers; on GPUs, one for each GPU."}
    )
    shard_rows: int = field(
        default=64, metadata={"help": "Rows that are written together; an interrupted run loses those."}
    )
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest document or pair, in tokens (default: the model's own)."}
    )
    bf16: bool = field(default=False, metadata={"help": "Let teachers compute in mixed precision."})
    device: str | None = field(
        default=None, metadata={"help": "Device that teachers compute on (default: the best there is)."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that lies beside the weights of teachers; MICE never needs it."}
    )

    def __post_init__(self) -> None:
        self.teacher = [resolve_model(name) for name in self.teacher]
        for name in ("processes", "shard_rows", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if not math.isfinite(self.positive_bonus):
            raise ValueError(f"positive_bonus: must be finite, got {self.positive_bonus}")


def run_label(options: LabelOptions) -> None:
    """Label, and print how many rows there are."""
    from mice_st.training.labelling import LabelJob, label

    rows = label(LabelJob(**vars(options)))
    print(f"{options.output}: {rows} rows, scored by {', '.join(options.teacher)}")
