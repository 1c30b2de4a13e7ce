"""sentence-transformers' own losses by name, with the settings that fit MICE."""

from __future__ import annotations

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from torch import Tensor, nn

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.training.rows import Rows

# How a batch reaches the loss: a list of documents for each query, a column for each negative, or single pairs.
LAYOUTS = {
    "list_net": "lists",
    "lambda": "lists",
    "rank_net": "lists",
    "adr_mse": "lists",
    "margin_mse": "columns",
    "mnrl": "columns",
    "mse": "pairs",
    "bce": "pairs",
}
NEED_SCORES = ("margin_mse", "mse")
HAVE_TEMPERATURE = ("list_net",)


class OnePassMarginMSELoss(losses.MarginMSELoss):
    """``MarginMSELoss`` that scores all documents of a batch in one forward pass.

    sentence-transformers' own makes a pass for each negative, so that MICE would encode every query again and again.
    """

    def forward(
        self,
        inputs: list[list[str]],
        labels: Tensor | list[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            inputs: Queries, positives and a column for each negative, ``(B,)`` each.
            labels: The teacher's scores of positive and negatives, B tensors ``(1 + negatives,)``.
            prompt: As in sentence-transformers.
            task: As in sentence-transformers.

        Returns:
            Mean squared error between the margins of the model and those of the teacher.
        """
        queries, *columns = inputs
        pairs = [pair for column in columns for pair in zip(queries, column, strict=True)]
        scores = self.logits_from_pairs(pairs, prompt=prompt, task=task).view(len(columns), len(queries))
        wanted = (torch.stack(labels) if isinstance(labels, list) else labels).to(scores.device).T.float()
        return self.loss_fct(scores[:1] - scores[1:], wanted[:1] - wanted[1:])


class Divide(nn.Module):
    """Division by a constant: the temperature of a softmax."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, values: Tensor) -> Tensor:
        """``values / by``."""
        return values / self.by


def choose_loss(name: str, rows: Rows) -> str:
    """Resolve ``"auto"``: with teacher scores ``"margin_mse"``, ``"mse"`` for single pairs; without, ``"list_net"``."""
    if name != "auto":
        return name
    if not rows.has_scores:
        return "list_net"
    return "margin_mse" if rows[0].negatives else "mse"


def build_loss(name: str, model: CrossEncoder, temperature: float = 1.0) -> nn.Module:
    """The loss of that name, on raw logits.

    The listwise losses score all pairs of a batch in one forward pass (``mini_batch_size=-1``) where the model is MICE,
    which encodes each equal text of a call once and computes in buckets of like length. A plain cross-encoder would pad
    them all to the longest document: it gets as many pairs at a time as the batch has queries.

    With a teacher's scores and a temperature, ``list_net`` is listwise distillation: the cross-entropy between the
    softmax of the teacher's scores and that of the model's, both divided by the temperature (up to a constant their
    Kullback-Leibler divergence).

    Args:
        name: One of ``LAYOUTS``.
        model: The model to train.
        temperature: Of ``list_net``; the labels are divided by the trainer's collator.

    Raises:
        ValueError: If there is no loss of that name, or it has no temperature.
    """
    if temperature != 1.0 and name not in HAVE_TEMPERATURE:
        raise ValueError(f"temperature: loss {name} has none; it belongs to {', '.join(HAVE_TEMPERATURE)}")
    is_mice = isinstance(model, MiceCrossEncoder)
    size = -1 if is_mice else None
    # MNRL's own default, a sigmoid times 10, cannot tell good documents apart; raw logits need no scale.
    build = {
        "margin_mse": lambda: (OnePassMarginMSELoss if is_mice else losses.MarginMSELoss)(model),
        "mse": lambda: losses.MSELoss(model),
        "bce": lambda: losses.BinaryCrossEntropyLoss(model),
        "mnrl": lambda: losses.MultipleNegativesRankingLoss(model, scale=1.0, activation_fn=None),
        "list_net": lambda: losses.ListNetLoss(model, Divide(temperature), mini_batch_size=size),
        "lambda": lambda: losses.LambdaLoss(model, mini_batch_size=size),
        "rank_net": lambda: losses.RankNetLoss(model, mini_batch_size=size),
        "adr_mse": lambda: losses.ADRMSELoss(model, mini_batch_size=size),
    }
    if name not in build:
        raise ValueError(f"loss: {name!r} is none of {', '.join(LAYOUTS)}")
    return build[name]()
