"""A training recipe: model, data, places and settings. Its flat fields are the flags of ``mice-st train``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from mice_st.loading import resolve_model
from mice_st.training.flat import as_flat, from_flat
from mice_st.training.settings import TrainingSettings, flag, require


@dataclass
class TrainingRecipe:
    """The model, the data and the places of a training run; written flat beside its checkpoints.

    Attributes:
        settings: How it is trained. Flags, recipe files and ``training.json`` name its fields beside the recipe's own.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a value is impossible; the message names the field.
    """

    model: str = field(
        metadata={
            "help": "Folder, Hub id or released model to start from: MICE, or any cross-encoder or encoder; for ColBERT also an embedding "
            "model.",
            "metavar": "MODEL",
        }
    )
    train_data: list[str] = field(
        metadata={
            "help": "JSON Lines, CSV, TSV or Parquet files (query, positive, negatives, scores, or sentence-transformers' anchor, "
            "positive, negative_1, ...), collections (FOLDER or FOLDER:SPLIT+SPLIT, BEIR layout), or "
            "public sets by name (sentence-transformers/msmarco, cross-encoder/ettin-reranker-v1-data:CONFIGURATION).",
            "metavar": "DATA",
        }
    )
    output: str = field(
        metadata={"help": "Folder for the trained model; its checkpoints lie in checkpoints/.", "metavar": "FOLDER"}
    )

    architecture: Literal["cross_encoder", "colbert"] = flag(
        "cross_encoder",
        "Kind of model. cross_encoder: MICE, or a plain cross-encoder. colbert: a vector of 128 dimensions for each token, compared by MaxSim.",
    )
    train_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Passes over each of the train data in one epoch, such as 1 or 0.5 (default: 1)."},
    )
    train_split: str = flag("train", "Split of a BEIR folder to train on, where its name gives none.")
    limit: int | None = flag(None, "Rows to train on, drawn with the seed (default: all).")
    negatives: int = flag(7, "Negatives of each positive, at most.")
    negatives_top_k: int = flag(50, "Best documents of BM25 that hard negatives are drawn from.")
    found_positives: bool = flag(False, "Collections: make rows only of relevant documents that are among these best.")
    dev_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Collections (FOLDER or FOLDER:SPLIT) to choose the best checkpoint on, by their mean nDCG@10."
        },
    )
    watch_data: list[str] | None = field(
        default=None,
        metadata={"help": "Collections that are only measured, such as those of other domains; their mean is logged."},
    )
    dev_split: str = flag("dev", "Split of a dev collection where its name gives none.")
    dev_queries: int | None = flag(
        None, "Queries of each of these that are used, the same whatever the seed (default: all)."
    )
    dev_top_k: int = flag(50, "Candidates of BM25 that are re-ranked for each query.")

    settings: TrainingSettings = field(default_factory=TrainingSettings)

    stored_states_file: str | None = flag(
        None, "Store of these states on disk, made where it is missing, for more documents than fit into memory."
    )
    seed: int = flag(0, "Seed of sampling, order, fresh weights and dropout.")
    seeds: list[int] | None = field(
        default=None,
        metadata={
            "help": "Train once for each of these seeds, in seed-N of the output folder; mean and spread are printed, the best is the output."
        },
    )
    save_steps: int = flag(200, "Steps between checkpoints; each is evaluated where there is dev data.")
    keep_checkpoints: int = flag(2, "Checkpoints to keep; the best and the last always stay.")
    resume: bool = flag(False, "Go on from the last complete checkpoint in the output folder.")
    expected_processes: int | None = flag(None, "Refuse to start with another number of processes.")
    cpu: bool = flag(False, "Train on the CPU even where there is a GPU.")
    trust_remote_code: bool = flag(False, "Run code that lies beside the weights of the model; MICE never needs it.")
    push_to: str | None = flag(None, "Hub id to push every checkpoint to; a new repository is private.")
    report_to: str = flag(
        "none", "Service that transformers' Trainer reports to: none, tensorboard, trackio, wandb, ..."
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        for name in ("train_data", "dev_data", "watch_data"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        weights = self.train_weights
        if weights is not None and (len(weights) != len(self.train_data) or min(weights) < 0 or not any(weights)):
            raise ValueError(f"train_weights: must be one number from 0 for each of train_data, got {weights}")
        for name in ("negatives", "negatives_top_k", "dev_top_k", "save_steps", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        for name in ("limit", "dev_queries", "expected_processes"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)
        require(self.watch_data is None or self.dev_data is not None, "watch_data", "needs dev_data", self.watch_data)

    @classmethod
    def from_flat(cls, **fields: Any) -> TrainingRecipe:
        """A recipe from its fields and those of its settings, as flags and recipe files name them.

        Raises:
            ValueError: If there is no such field, or a value is impossible; names the field.
            TypeError: If ``model``, ``train_data`` or ``output`` is missing.
        """
        return from_flat(cls, fields)

    def flat(self) -> dict[str, Any]:
        """All fields and those of the settings by name, as ``from_flat`` takes them."""
        return as_flat(self)

    @property
    def processes(self) -> int:
        """Number of processes that torchrun has started."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that writes."""
        return int(os.environ.get("RANK", "0")) == 0
