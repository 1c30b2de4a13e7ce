"""A recipe as the arguments of transformers' Trainer, and learning rates of their own for the layers that are new."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.training_args import BaseTrainingArguments
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.settings import TrainingSettings

# Layers on top of a backbone, by the names of their parameters.
HEAD = r"\.classifier\."
RESIDUAL = r"\.(match|max_sim)_residual\.|pooled_residual_log_scale"
PROJECTION = r"^model\.\d+\.linear\."  # of ColBERT's token vectors
MICE_HEAD = rf"{HEAD}|\.0\.model\.pooler\."  # a plain cross-encoder's pooler is part of its backbone
INTERACTION = r"\.interaction\.\d+\.|\.0\.model\.(final_norm\.|global_cls)|\.(query|document)_projection\."

# Time-limited runs have no number of steps, but transformers' Trainer wants one.
NO_STEP_LIMIT = 10_000_000


def training_arguments(recipe: TrainingRecipe, checkpoints: Path, evaluates: bool) -> BaseTrainingArguments:
    """The arguments of transformers' Trainer for a recipe.

    Args:
        recipe: The recipe.
        checkpoints: Folder for the checkpoints.
        evaluates: Whether there is dev data.

    Returns:
        The arguments; reading them starts the process group where there are several processes.

    Raises:
        ValueError: If the number of processes is not the expected one or does not divide the batch, or one process
            has several GPUs.
    """
    settings = recipe.settings
    # Named only where it is wanted: transformers is about to rename the argument, and warns of it.
    checkpointing = {"gradient_checkpointing": True} if settings.gradient_checkpointing else {}
    is_colbert = recipe.architecture == "colbert"
    arguments = (MultiVectorEncoderTrainingArguments if is_colbert else CrossEncoderTrainingArguments)(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs or 1,
        max_steps=NO_STEP_LIMIT if settings.is_limited_by_time_alone else settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        bf16=settings.bf16,
        seed=recipe.seed,
        use_cpu=recipe.cpu or not torch.cuda.is_available(),
        dataloader_drop_last=True,
        ddp_find_unused_parameters=False,  # all are used; looking for them breaks losses with several forward passes
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=max(2, recipe.keep_checkpoints),  # of one, transformers would delete the last for the best
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.save_steps,
        eval_on_start=evaluates and not recipe.resume,
        load_best_model_at_end=evaluates,
        metric_for_best_model="eval_dev_ndcg@10" if evaluates else None,
        greater_is_better=True if evaluates else None,
        report_to=recipe.report_to,
        push_to_hub=recipe.push_to is not None,
        hub_model_id=recipe.push_to,
        hub_private_repo=True,  # half-trained models are nobody else's business
        **checkpointing,
    )
    if arguments.n_gpu > 1:
        raise ValueError(
            f"There are {arguments.n_gpu} GPUs and one process: start one for each with torchrun --nproc-per-node "
            f"{arguments.n_gpu} -m mice_st train ..., or name one in CUDA_VISIBLE_DEVICES"
        )
    processes = arguments.world_size
    if recipe.expected_processes not in (None, processes):
        raise ValueError(
            f"expected_processes: {recipe.expected_processes}, but there is {processes}. Start with "
            f"torchrun --nproc-per-node {recipe.expected_processes} -m mice_st train ... "
            "(accelerate launch --cpu starts one process only)"
        )
    if settings.batch_tokens is None and settings.batch_size % processes:
        raise ValueError(f"batch_size: {settings.batch_size} rows cannot be shared out to {processes} processes")
    arguments.per_device_train_batch_size = max(1, settings.batch_size // processes)
    return arguments


def learning_rates(settings: TrainingSettings, model: CrossEncoder | MultiVectorEncoder) -> dict[str, float]:
    """Regular expression over parameter names -> highest learning rate, for the layers on top of the backbone."""
    if isinstance(model, MiceCrossEncoder):
        patterns = {
            MICE_HEAD: settings.head_learning_rate_factor,
            RESIDUAL: settings.residual_learning_rate_factor,
            INTERACTION: settings.interaction_learning_rate_factor,
        }
    else:
        patterns = {PROJECTION if isinstance(model, MultiVectorEncoder) else HEAD: settings.head_learning_rate_factor}
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    return {
        pattern: settings.learning_rate * factor
        for pattern, factor in patterns.items()
        if any(re.search(pattern, name) for name in names)
    }
