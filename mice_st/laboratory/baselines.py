"""What a masked cross-encoder and MICE are compared with, all made from one checkpoint and measured on one set of pairs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import (
    CrossEncoder,
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tqdm.auto import tqdm

from mice_st.convert import convert
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.systems import rerank_with_vectors
from mice_st.laboratory.experiment import Experiment, Retraining
from mice_st.laboratory.ladder import describe, load_masked, require_classifier
from mice_st.model_loading import load_model
from mice_st.training.mining import mine_rows
from mice_st.training.reranker_trainer import NO_STEP_LIMIT
from mice_st.training.schedule import Clock, Schedule

VECTORS = {"colbert": MultiVectorEncoder, "bi-encoder": SentenceTransformer}
PRESET = re.compile(r"full|mask[012]|sparse-ce|(mask3|prettr)-l\d+")
MICE = re.compile(r"mice-l(\d+)\+(\d+)")


def measure_baselines(
    source: str,
    names: Sequence[str],
    experiment: Experiment,
    retraining: Retraining | None,
    output: Path,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Make each system from the source, train it where wanted, and re-rank the same candidates.

    Args:
        source: Folder or Hub id of the cross-encoder.
        names: A masking preset (``full``, ``prettr-l4``, ``sparse-ce``, ...), ``mice-l4+3``, ``colbert``, ``bi-encoder``;
            or folder or Hub id of any model, which is measured as it is.
        experiment: What to measure, and to train, on.
        retraining: How to train what is made from the source; None trains nothing.
        output: Folder for the trained models.
        max_length: Longest pair (or document), in tokens; None takes the model's own.

    Returns:
        For each name ``step`` (the name), ``ndcg@10``, ``mrr@10``, ``training_steps`` and ``ms_per_query`` (scoring and the
        encoding of documents together).

    Raises:
        FileNotFoundError: If a name is neither of a system nor of a model.
        ValueError: If a system would rank at random because nothing is trained.
    """
    rows = []
    for name in tqdm(names, "Baselines", unit="system", delay=2, leave=False):
        model = make_baseline(source, name, max_length, is_trained=retraining is not None)
        is_made = PRESET.fullmatch(name) or MICE.fullmatch(name) or name in VECTORS
        steps = 0
        if retraining is not None and is_made:
            train = Retraining.train if isinstance(model, CrossEncoder) else train_vectors
            steps = train(retraining, model, experiment, output / name)
        evaluator = experiment.evaluator
        began = time.perf_counter()
        if isinstance(model, CrossEncoder):
            run = evaluator.rerank(model)
        else:
            scores = {query_id: dict.fromkeys(items, 0.0) for query_id, items in evaluator.candidates.items()}
            run = rerank_with_vectors(model, evaluator.batch_size, evaluator.collection, scores)
        milliseconds = 1000 * (time.perf_counter() - began) / max(1, len(run))
        figures = evaluate_run(evaluator.collection.qrels, run)
        rows.append({**describe(name, figures), "training_steps": steps, "ms_per_query": milliseconds})
    return rows


def make_baseline(source: str, name: str, max_length: int | None, is_trained: bool) -> Any:
    """One system, from the source's weights or from a folder of its own; see ``measure_baselines``."""
    if PRESET.fullmatch(name):
        if not is_trained:
            require_classifier(source)
        return load_masked(source, name, max_length)
    if match := MICE.fullmatch(name):
        return convert(source, int(match[1]), int(match[2]))[0]
    if name in VECTORS:
        if not is_trained:
            raise ValueError(
                f"{name}: a cross-encoder's layers are no encoder of single texts until they are trained; give "
                "--train_steps or --train_seconds, or the folder of a trained model in its place"
            )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = VECTORS[name](source)
        if max_length is not None:
            model.max_seq_length = max_length
        return model
    return load_model(name, max_length=max_length)


def train_vectors(retraining: Retraining, model: Any, experiment: Experiment, output: Path) -> int:
    """``Retraining.train`` for ColBERT and bi-encoders: the same rows, steps and rate; in-batch and hard negatives."""
    from datasets import Dataset

    assert experiment.training is not None  # a command that trains loads a training split
    recipe = retraining.recipe(output)
    rows = mine_rows(experiment.training, recipe)
    count = min(len(row.negatives) for row in rows)
    columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
    for place in range(count):
        columns[f"negative_{place + 1}"] = [row.negatives[place] for row in rows]
    dataset = Dataset.from_dict(columns)
    is_colbert = isinstance(model, MultiVectorEncoder)
    arguments = (MultiVectorEncoderTrainingArguments if is_colbert else SentenceTransformerTrainingArguments)(
        output_dir=str(output),
        max_steps=retraining.steps or NO_STEP_LIMIT,
        learning_rate=retraining.learning_rate,
        lr_scheduler_type="linear" if retraining.steps else "constant",
        warmup_steps=0.1 if retraining.steps else 0,
        per_device_train_batch_size=retraining.batch_size,
        seed=retraining.seed,
        dataloader_drop_last=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    loss = MultiVectorMultipleNegativesRankingLoss if is_colbert else MultipleNegativesRankingLoss
    trainer = (MultiVectorEncoderTrainer if is_colbert else SentenceTransformerTrainer)(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=loss(model),
        callbacks=[Clock(Schedule(recipe, retraining.steps), evaluates=False)],
    )
    trainer.train()
    return int(trainer.state.global_step)
