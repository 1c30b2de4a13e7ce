"""Interaction layers that earn their place, found by taking one away at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification


def keep_interaction_layers(model: MiceForSequenceClassification, kept: Sequence[int]) -> MiceForSequenceClassification:
    """A copy of the model with some of its interaction layers only.

    Args:
        model: The model; stays as it is.
        kept: Positions of the layers, from 0, in their order.

    Raises:
        ValueError: If a layer is not there, or there are too few for the model.
    """
    layers = model.config.interaction_layers
    if sorted(set(kept)) != list(kept) or not all(0 <= layer < layers for layer in kept):
        raise ValueError(f"layers {list(kept)}: expected rising numbers below {layers}")
    config = MiceConfig.from_dict(model.config.to_dict() | {"interaction_layers": len(kept)})
    trimmed = MiceForSequenceClassification(config)
    tensors = {}
    for name, tensor in model.state_dict().items():
        prefix, _, rest = name.partition(".")
        place, _, tail = rest.partition(".")
        if prefix != "interaction":
            tensors[name] = tensor
        elif int(place) in kept:
            tensors[f"interaction.{list(kept).index(int(place))}.{tail}"] = tensor
    trimmed.load_state_dict(tensors)
    return trimmed.to(model.device).eval()


def trim(model: MiceCrossEncoder, evaluator: RerankingEvaluator, keep: int | None = None) -> list[dict[str, Any]]:
    """Take one layer away at a time: of the layers left, the one whose absence costs least goes.

    Args:
        model: The model; has all its layers again afterwards.
        evaluator: What to measure on; where the layers read frozen states, it may keep them (``keep_states``).
        keep: Stop at this many layers; None goes on to the fewest that the model allows.

    Returns:
        One dictionary for each choice of layers that was measured, in order: ``kept`` (positions, from 0), ``removed``
        (the layer taken away last, None for the whole model), ``round`` (from 0), ``ndcg@10``, and ``is_chosen``,
        whether the next round starts from it.
    """
    whole = model.mice
    kept = list(range(whole.config.interaction_layers))
    fewest = max(keep or 1, 1 if whole.config.cls_attends_document else 2)
    rows: list[dict[str, Any]] = [
        {"kept": kept, "removed": None, "round": 0, "ndcg@10": evaluator.measure(model)[0].ndcg_at_10}
    ]
    total = sum(range(fewest + 1, len(kept) + 1))
    try:
        with tqdm(total=total, desc="Trimming", unit="choice", delay=2, leave=False) as progress:
            while len(kept) > fewest:
                tried: list[dict[str, Any]] = []
                for layer in kept:
                    left = [other for other in kept if other != layer]
                    model[0].model = keep_interaction_layers(whole, left)
                    figure = evaluator.measure(model)[0].ndcg_at_10
                    tried.append({"kept": left, "removed": layer, "round": rows[-1]["round"] + 1, "ndcg@10": figure})
                    progress.update()
                rows += tried
                kept = max(tried, key=lambda row: row["ndcg@10"])["kept"]
    finally:
        model[0].model = whole
    for row in rows:
        best = max((other for other in rows if other["round"] == row["round"]), key=lambda other: other["ndcg@10"])
        row["is_chosen"] = row is best
    return rows
