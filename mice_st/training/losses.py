"""sentence-transformers' own losses, with the settings that fit MICE."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from torch import nn

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.training.data import TrainingRow


def choose_loss(name: str, rows: Sequence[TrainingRow]) -> str:
    """Resolve ``"auto"``: ``"margin_mse"`` for rows with teacher scores, ``"list_net"`` for rows without."""
    if name != "auto":
        return name
    return "list_net" if rows[0].scores is None else "margin_mse"


def build_loss(name: str, model: CrossEncoder) -> nn.Module:
    """The loss of that name, on raw logits.

    The listwise losses score all pairs of a batch in one forward pass (``mini_batch_size=-1``) where the model is MICE,
    which encodes each equal text of a call once and computes in buckets of like length. A plain cross-encoder would pad
    them all to the longest document: it gets as many pairs at a time as the batch has queries.

    Raises:
        ValueError: If there is no loss of that name.
    """
    mini_batch_size = -1 if isinstance(model, MiceCrossEncoder) else None
    if name == "margin_mse":
        return losses.MarginMSELoss(model)
    if name == "list_net":
        return losses.ListNetLoss(model, mini_batch_size=mini_batch_size)
    if name == "lambda":
        return losses.LambdaLoss(model, mini_batch_size=mini_batch_size)
    raise ValueError(f"loss: {name!r} is none of margin_mse, list_net, lambda")
