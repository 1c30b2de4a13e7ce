"""The settings of a training run: loss, batches, learning rates, precision; the same choices for any model and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def flag(default: Any, text: str) -> Any:
    """A field of options with a default and the help of its flag."""
    return field(default=default, metadata={"help": text})


def require(condition: bool, name: str, rule: str, value: Any) -> None:
    """Refuse a value of a field.

    Raises:
        ValueError: If the condition does not hold; gives the name, the rule and the value.
    """
    if not condition:
        raise ValueError(f"{name}: {rule}, got {value}")


@dataclass
class TrainingSettings:
    """The settings of one training run; the flags of the same names are described by their help.

    Raises:
        ValueError: If a value is impossible; the message names the field.
    """

    loss: Literal["auto", "margin_mse", "mse", "bce", "list_net", "lambda", "rank_net", "adr_mse", "mnrl"] = flag(
        "auto",
        "Loss; auto takes margin_mse for rows with teacher scores (mse for single pairs), list_net for those without.",
    )
    temperature: float = flag(1.0, "Temperature that softens both distributions of list_net with teacher scores.")
    label_scale: float = flag(10.0, "Label of a positive for list_net without teacher scores; a negative has 0.")
    batch_size: int = flag(16, "Rows in a step, over all processes together.")
    batch_tokens: int | None = flag(
        None, "Padded document tokens in a step, over all processes together, in place of batch_size."
    )
    epochs: float | None = flag(None, "Passes over the data (default: 1, if neither steps nor seconds are given).")
    max_steps: int | None = flag(None, "Steps, in place of epochs.")
    max_seconds: float | None = flag(None, "Stop after this much training time (encoding included, evaluation not).")
    learning_rate: float = flag(2e-5, "Highest learning rate of the backbone.")
    interaction_learning_rate_factor: float = flag(5.0, "MICE: factor on the learning rate of the interaction layers.")
    head_learning_rate_factor: float = flag(
        10.0, "Factor on the learning rate of the classifier and MICE's pooler; for ColBERT of the projection."
    )
    residual_learning_rate_factor: float = flag(
        10.0, "MICE: factor on the learning rate of weights and scales of its residuals."
    )
    weight_decay: float = flag(0.0, "Weight decay of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = flag(
        "linear", "Curve along which the learning rate falls to 0; constant does not fall."
    )
    warmup: float = flag(0.1, "Part of the training in which the learning rate rises.")
    max_gradient_norm: float = flag(1.0, "Norm to which longer gradients are shortened.")
    dropout: float | None = flag(None, "Part of the values that is dropped in training (default: the model's own).")
    max_length: int | None = flag(None, "Longest document (MICE) or pair, in tokens (default: the model's own).")

    freeze_contextualization: bool = flag(
        False, "MICE: train nothing below the interaction layers. ColBERT: train only the projection."
    )
    stored_states: bool = flag(True, "With frozen layers: encode each document once and train from its states.")
    stored_states_dtype: Literal["float16", "float32", "int8", "int4"] = flag(
        "float16", "Type of those states; int8 and int4 train the layers above for states of that type."
    )
    bf16: bool = flag(False, "Train, and encode documents to store, in mixed precision.")
    gradient_checkpointing: bool = flag(
        False, "Compute activations again in the backward pass, which needs less memory and more time."
    )

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "must be at least 1", self.batch_size)
        for name in ("max_steps", "batch_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)
        for name in ("epochs", "max_seconds"):
            value = getattr(self, name)
            require(value is None or value > 0, name, "must be above 0", value)
        factors = [f"{part}_learning_rate_factor" for part in ("interaction", "head", "residual")]
        for name in ("temperature", "learning_rate", *factors):
            require(getattr(self, name) > 0, name, "must be above 0", getattr(self, name))
        for name in ("warmup", "dropout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, "must lie in [0, 1)", value)
        require(self.epochs is None or self.max_steps is None, "max_steps", "excludes epochs", self.max_steps)

    @property
    def is_limited_by_time_alone(self) -> bool:
        """Whether the run has no number of steps, only a number of seconds."""
        return self.max_seconds is not None and self.max_steps is None and self.epochs is None
