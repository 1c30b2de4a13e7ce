"""The ladder from a cross-encoder to MICE: one mask after the other, each measured, with or without re-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig

from mice_st.data.runs import Run
from mice_st.evaluation.metrics import RunMetrics
from mice_st.research.laboratory.experiment import Experiment, Retraining
from mice_st.research.masking import MaskedCrossEncoder


def ladder_steps(fusion_layer: int) -> list[str]:
    """Names of the presets, in the order of the paper: the masks one upon the other, then the two baselines."""
    return ["full", "mask0", "mask1", "mask2", f"mask3-l{fusion_layer}", f"prettr-l{fusion_layer}", "sparse-ce"]


def count_layers(source: str) -> int:
    """Layers of a checkpoint."""
    return int(AutoConfig.from_pretrained(source).num_hidden_layers)


def load_masked(
    source: str, masking: str, max_length: int | None, restart_positions: bool = False
) -> MaskedCrossEncoder:
    """A masked cross-encoder whose scores are logits, its fresh tensors (if any) always the same.

    Raises:
        ValueError: If it gives several labels, or cannot be masked.
    """
    options = {} if max_length is None else {"max_length": max_length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedCrossEncoder(source, masking, restart_positions, activation_fn=torch.nn.Identity(), **options)
    if model.num_labels != 1:
        raise ValueError(f"{source}: its classifier gives {model.num_labels} labels, a re-ranker needs one")
    return model


def require_classifier(source: str) -> None:
    """Refuse a checkpoint that ranks at random until it is trained.

    Raises:
        ValueError: If the checkpoint is no trained cross-encoder.
    """
    architecture = (AutoConfig.from_pretrained(source).architectures or ["nothing"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise ValueError(
            f"{source}: holds {architecture}, which has no trained classifier; train a cross-encoder first (mice-st "
            "train), or re-train in every step with --train-steps or --train-seconds"
        )


def measure_ladder(
    source: str,
    steps: Sequence[str],
    experiment: Experiment,
    retraining: Retraining | None,
    output: Path,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Measure a cross-encoder under one mask after the other.

    Args:
        source: Folder or Hub id of the cross-encoder.
        steps: Names of presets; the first is what the others are compared with.
        experiment: What to measure, and to train, on.
        retraining: How to train each step's model, from the source's weights; None trains nothing.
        output: Folder for the trained models, each under its step's name.
        max_length: Longest pair, in tokens; None takes the model's own.

    Returns:
        For each step ``step``, ``ndcg@10``, ``mrr@10``, ``difference`` (largest difference of a score from that of the
        first step), ``training_steps`` and ``readable`` (see ``MaskedCrossEncoder.readable``; nested lists of 0 and 1).

    Raises:
        ValueError: If the source has no trained classifier and nothing is trained, or it cannot be masked.
    """
    if retraining is None:
        require_classifier(source)
    model = load_masked(source, steps[0], max_length)
    rows: list[dict[str, Any]] = []
    first: Run | None = None
    for step in tqdm(steps, "Ladder", unit="step", delay=2, leave=False):
        trained = 0
        if retraining is None:
            model.set_masking(step)
        else:
            model = load_masked(source, step, max_length)
            trained = retraining.train(model, experiment, output / step)
        figures, run = experiment.evaluator.measure(model)
        first = run if first is None else first
        rows.append(
            {
                **describe(step, figures),
                "difference": largest_difference(first, run),
                "training_steps": trained,
                "readable": model.readable.int().tolist(),
            }
        )
    return rows


def describe(name: str, figures: RunMetrics) -> dict[str, Any]:
    """The figures of one model as a row of a table."""
    return {"step": name, "ndcg@10": figures.ndcg_at_10, "mrr@10": figures.mrr_at_10}


def largest_difference(one: Run, other: Run) -> float:
    """The largest difference of a score between two runs over the same candidates."""
    pairs = ((query, item) for query, scores in one.items() for item in scores)
    return max((abs(one[query][item] - other[query][item]) for query, item in pairs), default=0.0)


def recommend_fusion_layer(ndcg: dict[int, float], tolerance: float) -> int:
    """The highest fusion layer that costs no more than the tolerance: the higher, the more is computed beforehand.

    Args:
        ndcg: Fusion layer -> nDCG@10.
        tolerance: How much nDCG@10 may lie below the best of them.
    """
    best = max(ndcg.values())
    return max(layer for layer, figure in ndcg.items() if figure >= best - tolerance)
