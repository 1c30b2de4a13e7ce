"""One training run, from the recipe to the Hub folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder
from transformers import set_seed

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.files import write_json
from mice_st.loading import load_cross_encoder
from mice_st.model_folder import describe_source, write_provenance
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.training.checkpoints import (
    FREE_FIELDS,
    HISTORY_FILE,
    describe_run,
    find_checkpoint,
    list_checkpoints,
    write_run,
)
from mice_st.training.colbert import (
    ColbertTrainer,
    build_colbert_loss,
    check_colbert_rows,
    freeze_backbone,
    load_colbert,
)
from mice_st.training.data import describe_rows, load_rows, rows_to_dataset
from mice_st.training.dev_sets import build_evaluator
from mice_st.training.losses import build_loss, choose_loss
from mice_st.training.mining import mine_rows
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.reranker_trainer import ExactTrainer, RerankerTrainer
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import MemoryRows, fingerprint
from mice_st.training.schedule import Schedule
from mice_st.training.settings import TrainingSettings
from mice_st.training.stored_states import CODECS, encode_to_disk, encode_to_memory
from mice_st.training.training_arguments import learning_rates, training_arguments


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        model: The trained model; with dev data, the best checkpoint's.
        output: Its Hub folder.
        history: One dictionary for each step (``step``, ``loss``, ``learning_rate``, ``grad_norm``) and for each
            evaluation (``step``, ``eval_dev_ndcg@10``, ``eval_dev_mrr@10``), in their order.
        steps: Steps made, those before a resumption included.
        seconds: Training time, encoding of documents included, evaluation not.
        best_step: Step of the best checkpoint, or None without dev data.
        best_ndcg_at_10: Its nDCG@10 on the dev data, or None.
    """

    model: CrossEncoder | MultiVectorEncoder
    output: Path
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    best_step: int | None
    best_ndcg_at_10: float | None


def train(
    recipe: TrainingRecipe,
    *,
    model: CrossEncoder | MultiVectorEncoder | None = None,
    train_collection: Collection | None = None,
    dev_collection: Collection | None = None,
) -> TrainingResult:
    """Train a re-ranker: MICE, a plain cross-encoder where ``recipe.model`` is none, or ColBERT by ``architecture``.

    Writes the trained model to ``recipe.output`` as a Hub folder with ``training.json`` (model, rows and steps), and
    its checkpoints with ``recipe.json`` and ``history.json`` to ``checkpoints/`` in it. Under ``torchrun`` each process
    calls this; the first one writes.

    Args:
        recipe: The recipe.
        model: Takes the place of ``recipe.model``; is trained in place.
        train_collection: Takes the place of ``recipe.train_data``; negatives are mined.
        dev_collection: Takes the place of ``recipe.dev_data``.

    Returns:
        The model and the history.

    Raises:
        ImportError: If a package of the extra ``train`` is missing; the message names the extra.
        FileNotFoundError: If an input is missing, or there is nothing to resume.
        FileExistsError: If the output folder holds another run's checkpoints and ``recipe.resume`` is off.
        ValueError: If the recipe does not fit the model or the data, or the loss is not finite (names step and rows;
            the checkpoints so far stay).
    """
    settings = recipe.settings
    rows = load_rows(recipe) if train_collection is None else MemoryRows(mine_rows(train_collection, recipe))
    if settings.batch_tokens is None and len(rows) < settings.batch_size:
        raise ValueError(f"batch_size: {settings.batch_size} rows in a step, but there are only {len(rows)}")
    loss = choose_loss(settings.loss, rows)
    is_colbert = recipe.architecture == "colbert"
    if is_colbert:
        check_colbert_rows(loss, rows)
    evaluator = build_evaluator(recipe, dev_collection)
    checkpoints = Path(recipe.output) / "checkpoints"
    arguments = training_arguments(recipe, checkpoints, evaluator is not None)
    description = describe_run(recipe, fingerprint(rows), arguments.world_size)
    checkpoint = _starting_point(recipe.resume, checkpoints, description)
    set_seed(recipe.seed)
    made_of: dict[str, Any] = {
        "data": describe_rows(rows, recipe.train_data if train_collection is None else [train_collection.name])
    }
    if model is None:
        made_of["model"] = describe_source(recipe.model)
        load = load_colbert if is_colbert else load_cross_encoder
        model = load(recipe.model, str(arguments.device), settings.max_length, recipe.trust_remote_code)
    model.to(arguments.device)
    arguments.learning_rate_mapping = learning_rates(settings, model)
    if settings.dropout is not None:
        _set_dropout(model, settings.dropout)

    began = time.perf_counter()
    stored = _freeze(settings, model, rows, recipe.stored_states_file)
    schedule = Schedule(settings, settings.max_steps, time.perf_counter() - began)
    if schedule.is_over_time:
        raise ValueError(f"max_seconds: encoding the documents alone took {schedule.elapsed_seconds:.0f} seconds")
    shared = {
        "model": model,
        "args": arguments,
        "train_dataset": rows_to_dataset(rows, loss, settings.label_scale),
        "evaluator": evaluator,
    }
    trainer: ExactTrainer
    if isinstance(model, MultiVectorEncoder):
        built = build_colbert_loss(loss, model, settings.temperature)
        trainer = ColbertTrainer(settings, schedule, rows, loss=built, **shared)
    else:
        built = build_loss(loss, model, settings.temperature)
        trainer = RerankerTrainer(settings, schedule, rows, loss, stored, loss=built, **shared)
    if trainer.is_world_process_zero():
        write_run(checkpoints, description)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_dev_ndcg@10" in entry]
        if trainer.is_world_process_zero():
            write_json(checkpoints / HISTORY_FILE, history)
    if trainer.is_world_process_zero():
        model.save(recipe.output)
        options = {name: value for name, value in recipe.flat().items() if name not in FREE_FIELDS}
        write_provenance(Path(recipe.output), "train", options, **made_of, steps=trainer.count_steps())
        with suppress(OSError):
            (checkpoints / "eval").rmdir()  # sentence-transformers makes it for evaluators' files; ours write none
    trainer.accelerator.wait_for_everyone()
    return TrainingResult(
        model,
        Path(recipe.output),
        history,
        trainer.state.global_step,
        schedule.elapsed_seconds,
        trainer.state.best_global_step if evaluator is not None else None,
        trainer.state.best_metric,
    )


def _starting_point(resume: bool, checkpoints: Path, description: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start."""
    if resume:
        return find_checkpoint(checkpoints, description)
    if list_checkpoints(checkpoints):
        raise FileExistsError(
            f"output: {checkpoints} holds checkpoints of an earlier run; go on with resume, or name another folder"
        )
    return None


def _set_dropout(model: torch.nn.Module, dropout: float) -> None:
    """Drop this part, of the weights of attention too, which some layers keep in a number of their own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout  # type: ignore[assignment]


def _freeze(
    settings: TrainingSettings,
    model: CrossEncoder | MultiVectorEncoder,
    rows: Sequence[TrainingRow],
    states_file: str | None,
) -> Mapping[str, DocumentStates]:
    """Freeze the layers below the interaction, and encode the documents, whose states can no longer change.

    Args:
        settings: How to train.
        model: MICE or ColBERT.
        rows: The training rows.
        states_file: Store for the states, see ``open_store``; None keeps them in memory.

    Returns:
        Text -> states; nothing where documents are encoded in each step.

    Raises:
        ValueError: If the model is neither MICE nor ColBERT.
    """
    if not settings.freeze_contextualization:
        return {}
    if isinstance(model, MultiVectorEncoder):
        freeze_backbone(model)
        return {}
    if not isinstance(model, MiceCrossEncoder):
        raise ValueError("freeze_contextualization: the model is not MICE, it has no contextualisation layers")
    model.mice.freeze_contextualization()
    if not settings.stored_states:
        return {}
    texts = (text for row in rows for text in row.documents)
    codec = CODECS[settings.stored_states_dtype]
    with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
        if states_file is None:
            return encode_to_memory(model, texts, codec)
        return encode_to_disk(model, texts, states_file, codec)
