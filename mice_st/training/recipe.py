"""What a training run is made of. The fields of ``TrainingRecipe`` are the flags of ``mice-st train``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from mice_st.loading import resolve_model


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingRecipe:
    """Every choice of a training run; written beside its checkpoints.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a value is impossible; the message names the field.
    """

    model: str = field(
        metadata={
            "help": "Folder, Hub id or released model to start from: MICE, or any cross-encoder or encoder; for ColBERT also an embedding "
            "model."
        }
    )
    train_data: list[str] = field(
        metadata={
            "help": "JSON Lines files (query, positive, negatives, scores), collections (FOLDER or FOLDER:SPLIT+SPLIT, BEIR layout), or "
            "public sets by name (sentence-transformers/msmarco, cross-encoder/ettin-reranker-v1-data:CONFIGURATION)."
        }
    )
    output: str = field(metadata={"help": "Folder for the trained model; its checkpoints lie in checkpoints/."})

    architecture: Literal["cross_encoder", "colbert"] = _flag(
        "cross_encoder",
        "cross_encoder: MICE, or a plain cross-encoder; colbert: a vector of 128 dimensions for each token, compared by MaxSim.",
    )
    train_weights: list[float] | None = field(
        default=None, metadata={"help": "Passes over each of these in one epoch, such as 1 or 0.5; default 1."}
    )
    train_split: str = _flag("train", "Split of a BEIR folder to train on, where its name gives none.")
    limit: int | None = _flag(None, "Train on this many rows only, drawn with the seed.")
    negatives: int = _flag(7, "Negatives of each positive, at most.")
    negatives_top_k: int = _flag(50, "Hard negatives are drawn from this many best documents of BM25.")
    found_positives: bool = _flag(
        False, "Collections: rows only of relevant documents that are among these best, as where they are re-ranked."
    )
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
    dev_split: str = _flag("dev", "Split of a dev collection where its name gives none.")
    dev_queries: int | None = _flag(None, "Use this many queries of each of them only, the same whatever the seed.")
    dev_top_k: int = _flag(50, "Candidates of BM25 that are re-ranked for each query.")

    loss: Literal["auto", "margin_mse", "mse", "bce", "list_net", "lambda", "rank_net", "adr_mse", "mnrl"] = _flag(
        "auto", "auto: margin_mse for rows with teacher scores (mse for single pairs), list_net for those without."
    )
    temperature: float = _flag(1.0, "list_net with teacher scores: both distributions are softened by it.")
    label_scale: float = _flag(10.0, "list_net without teacher scores: label of a positive; of a negative it is 0.")
    batch_size: int = _flag(16, "Rows in a step, over all processes together.")
    batch_tokens: int | None = _flag(
        None, "Padded document tokens in a step, over all processes together, in place of batch_size."
    )
    epochs: float | None = _flag(None, "Passes over the data; 1 where neither steps nor seconds are given.")
    max_steps: int | None = _flag(None, "Steps, in place of epochs.")
    max_seconds: float | None = _flag(None, "Stop after this much training time (encoding included, evaluation not).")
    learning_rate: float = _flag(2e-5, "Highest learning rate of the backbone.")
    interaction_learning_rate_factor: float = _flag(5.0, "MICE: times as much for the interaction layers.")
    head_learning_rate_factor: float = _flag(
        10.0, "Times as much for the classifier and MICE's pooler; for ColBERT's projection."
    )
    residual_learning_rate_factor: float = _flag(10.0, "MICE: times as much for weights and scales of its residuals.")
    weight_decay: float = _flag(0.0, "AdamW's.")
    schedule: Literal["linear", "cosine", "constant"] = _flag("linear", "How the learning rate falls, to 0.")
    warmup: float = _flag(0.1, "Part of the training in which the learning rate rises.")
    max_gradient_norm: float = _flag(1.0, "Longer gradients are shortened to this norm.")
    dropout: float | None = _flag(
        None, "Part of the values that is dropped while training; by default the model's own."
    )
    max_length: int | None = _flag(None, "Longest document (MICE) or pair, in tokens; by default the model's own.")

    freeze_contextualization: bool = _flag(
        False, "MICE: train nothing below the interaction layers; ColBERT: only the projection."
    )
    stored_states: bool = _flag(True, "With frozen layers: encode each document once and train from its states.")
    stored_states_dtype: Literal["float16", "float32", "int8", "int4"] = _flag(
        "float16", "How those states are kept; int8 and int4 train the layers above for states kept that way."
    )
    stored_states_file: str | None = _flag(
        None, "Store of these states on disk, made where it is missing, for more documents than fit into memory."
    )
    bf16: bool = _flag(False, "Train, and encode documents to store, in mixed precision.")
    gradient_checkpointing: bool = _flag(False, "Trade time for memory.")

    seed: int = _flag(0, "Of sampling, order, fresh weights and dropout.")
    seeds: list[int] | None = field(
        default=None,
        metadata={
            "help": "Train once for each of these, in seed-N of the output folder; mean and spread are told, the best is the output."
        },
    )
    save_steps: int = _flag(200, "Steps between checkpoints; each is evaluated where there is dev data.")
    keep_checkpoints: int = _flag(2, "Checkpoints to keep; the best and the last always stay.")
    resume: bool = _flag(False, "Go on from the last complete checkpoint in the output folder.")
    expected_processes: int | None = _flag(None, "Refuse to start with another number of processes.")
    cpu: bool = _flag(False, "Train on the CPU even where there is a GPU.")
    push_to: str | None = _flag(None, "Hub id, made private where there is none, to push every checkpoint to.")
    report_to: str = _flag("none", "Where transformers' Trainer reports to: none, tensorboard, trackio, wandb, ...")

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        for name in ("train_data", "dev_data", "watch_data"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        weights = self.train_weights
        if weights is not None and (len(weights) != len(self.train_data) or min(weights) < 0 or not any(weights)):
            raise ValueError(f"train_weights: must be one number from 0 for each of train_data, got {weights}")
        for name in ("negatives", "negatives_top_k", "dev_top_k", "batch_size", "save_steps", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        for name in ("limit", "dev_queries", "max_steps", "expected_processes", "batch_tokens"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "must be at least 1", value)
        for name in ("epochs", "max_seconds"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, "must be above 0", value)
        factors = [f"{part}_learning_rate_factor" for part in ("interaction", "head", "residual")]
        for name in ("temperature", "learning_rate", *factors):
            _require(getattr(self, name) > 0, name, "must be above 0", getattr(self, name))
        _require(self.watch_data is None or self.dev_data is not None, "watch_data", "needs dev_data", self.watch_data)
        for name in ("warmup", "dropout"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, "must lie in [0, 1)", value)
        _require(self.epochs is None or self.max_steps is None, "max_steps", "excludes epochs", self.max_steps)

    @property
    def processes(self) -> int:
        """Number of processes that torchrun has started."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that writes."""
        return int(os.environ.get("RANK", "0")) == 0

    @property
    def is_limited_by_time_alone(self) -> bool:
        """Whether the run has no number of steps, only a number of seconds."""
        return self.max_seconds is not None and self.max_steps is None and self.epochs is None


def _require(condition: bool, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name}: {rule}, got {value}")
