"""sentence-transformers' own losses, with the settings that fit MICE."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from torch import nn

from mice_st.training.data import TrainingRow


def choose_loss(name: str, rows: Sequence[TrainingRow]) -> str:
    """Resolve ``"auto"``: ``"margin_mse"`` for rows with teacher scores, ``"list_net"`` for rows without."""
    if name != "auto":
        return name
    return "list_net" if rows[0].scores is None else "margin_mse"


def build_loss(name: str, model: CrossEncoder) -> nn.Module:
    """The loss of that name, on raw logits.

    The listwise losses score all pairs of a batch in one forward pass (``mini_batch_size=-1``), so that MICE, which
    encodes each equal text of a call once, encodes a query once for all of its documents.

    Raises:
        ValueError: If there is no loss of that name.
    """
    if name == "margin_mse":
        return losses.MarginMSELoss(model)
    if name == "list_net":
        return losses.ListNetLoss(model, mini_batch_size=-1)
    if name == "lambda":
        return losses.LambdaLoss(model, mini_batch_size=-1)
    raise ValueError(f"loss: {name!r} is none of margin_mse, list_net, lambda")
