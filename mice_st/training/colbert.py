"""ColBERT, trained as the re-rankers are: sentence-transformers' MultiVectorEncoder, with its own trainer and losses.

It is what MICE is compared with: the same rows, steps, schedule and dev sets, one vector for each token of a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer
from sentence_transformers.base.modules import Dense
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorDistillKLDivLoss,
    MultiVectorMarginMSELoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from torch import nn

from mice_st.training.data import SOURCE_COLUMN
from mice_st.training.losses import HAVE_TEMPERATURE
from mice_st.training.reranker_trainer import ExactTrainer
from mice_st.training.rows import Rows
from mice_st.training.schedule import Schedule
from mice_st.training.settings import TrainingSettings

LOSSES = ("list_net", "margin_mse", "mnrl")


def load_colbert(
    name: str, device: str | None = None, max_length: int | None = None, trust_remote_code: bool = False
) -> MultiVectorEncoder:
    """Load ColBERT, or make one of an encoder: its token states, projected to 128 dimensions and normalised.

    Args:
        name: Folder or Hub id.
        device: Where it computes; None takes the best there is.
        max_length: Longest document, in tokens; None takes the model's own.
        trust_remote_code: Run code that lies beside the weights.
    """
    model = MultiVectorEncoder(name, device=device, trust_remote_code=trust_remote_code)
    if max_length is not None:
        model.max_seq_length = max_length
    return model


def freeze_backbone(model: MultiVectorEncoder) -> None:
    """Leave nothing to train but the projection.

    Raises:
        ValueError: If the model has no projection.
    """
    projections = [module for module in model if isinstance(module, Dense)]
    if not projections:
        raise ValueError("freeze_contextualization: this ColBERT has no projection, nothing would be trained")
    model.requires_grad_(False)
    for projection in projections:
        projection.requires_grad_(True)


def check_colbert_rows(loss: str, rows: Rows) -> None:
    """Refuse rows and losses that ColBERT cannot be trained with.

    Args:
        loss: Name of the loss, not ``"auto"``.
        rows: The rows.

    Raises:
        ValueError: If there is no such loss for ColBERT, or the rows have not all as many negatives, or none; names the
            row.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss: ColBERT is trained with {', '.join(LOSSES)}, not with {loss}")
    if rows.uneven is not None:
        raise ValueError(
            f"{rows.uneven}; ColBERT needs as many in every row (--negatives takes only the first of them)"
        )
    if not rows[0].negatives:
        raise ValueError(f"{rows[0].source}: negatives: there are none; ColBERT needs at least one in every row")


def build_colbert_loss(name: str, model: MultiVectorEncoder, temperature: float = 1.0) -> nn.Module:
    """sentence-transformers' own loss over MaxSim scores.

    Args:
        name: ``"list_net"``: Kullback-Leibler divergence between the softmax of a row's labels (a teacher's scores, or
            the positive against its negatives) and that of the model's scores, which has the gradient of the listwise
            cross-entropy that the other re-rankers are trained with. ``"margin_mse"``, and ``"mnrl"``, in which the
            other rows' documents are negatives too.
        model: The model to train.
        temperature: Of ``"list_net"``: both sides are divided by it. The loss is multiplied by its square.

    Raises:
        ValueError: If there is no loss of that name, or it has no temperature.
    """
    if temperature != 1.0 and name not in HAVE_TEMPERATURE:
        raise ValueError(f"temperature: loss {name} has none; it belongs to {', '.join(HAVE_TEMPERATURE)}")
    if name == "list_net":
        return MultiVectorDistillKLDivLoss(model, temperature=temperature)
    if name == "margin_mse":
        return MultiVectorMarginMSELoss(model)
    if name == "mnrl":
        return MultiVectorMultipleNegativesRankingLoss(model)
    raise ValueError(f"loss: {name!r} is none of {', '.join(LOSSES)}")


@dataclass
class ColbertDataCollator(MultiVectorEncoderDataCollator):
    """sentence-transformers' collator with a column for each document of a row; the row's source passes through."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: the tokens of each column, perhaps ``label``, and the sources."""
        sources = [row[SOURCE_COLUMN] for row in features]
        rows = [{name: value for name, value in row.items() if name != SOURCE_COLUMN} for row in features]
        for row in rows:
            for place, text in enumerate(row.pop("documents", ())):
                row[f"document_{place}"] = text
        return {**super().__call__(rows), SOURCE_COLUMN: sources}


class ColbertTrainer(ExactTrainer, MultiVectorEncoderTrainer):
    """Trains ColBERT on the rows of ``rows_to_dataset``.

    Args:
        settings: As for ``ExactTrainer``, like the next two.
        schedule: The learning rate's schedule and the run's clock.
        rows: The rows of the dataset.
        **kwargs: As for ``MultiVectorEncoderTrainer``.
    """

    def __init__(self, settings: TrainingSettings, schedule: Schedule, rows: Rows, **kwargs: Any) -> None:
        collator = ColbertDataCollator(preprocess_fn=kwargs["model"].preprocess)
        super().__init__(settings, schedule, rows, data_collator=collator, **kwargs)
