"""ColBERT and bi-encoders trained as the other models of an experiment are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mice_st.research.laboratory.experiment import Experiment, Retraining
from mice_st.training.mining import mine_rows
from mice_st.training.schedule import Clock, Schedule
from mice_st.training.training_arguments import NO_STEP_LIMIT


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
        callbacks=[Clock(Schedule(recipe.settings, retraining.steps), evaluates=False)],
    )
    trainer.train()
    return int(trainer.state.global_step)
