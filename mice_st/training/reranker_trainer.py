"""sentence-transformers' trainers for re-rankers, made exact where they are lenient.

The order of the rows follows from seed and epoch alone, so that a resumed run sees what an uninterrupted one would
have seen, and two processes together what one would have seen alone. A loss that is not finite ends the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers.base.trainer import BaseTrainer
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mice_st.hub.push import push_checkpoint
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.training.batches import ShuffledBatches, TokenBatches
from mice_st.training.checkpoints import is_complete, list_checkpoints
from mice_st.training.data import SOURCE_COLUMN
from mice_st.training.losses import LAYOUTS
from mice_st.training.rows import Rows
from mice_st.training.schedule import Clock, Progress, Schedule
from mice_st.training.settings import TrainingSettings
from mice_st.training.stored_states import RerankerDataCollator
from mice_st.training.throughput import Throughput


class _EpochSetter(TrainerCallback):
    """Tells the sampler its epoch: transformers reaches it through one wrapper, a resumed parallel run has two."""

    def __init__(self, trainer: ExactTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        sampler = self.trainer.shuffled_batches
        sampler.set_epoch(state.global_step // (len(sampler) // args.world_size))


class ExactTrainer(BaseTrainer):
    """The common half of our trainers; comes before one of sentence-transformers' own among the bases of a class.

    Args:
        settings: How to train; batches and limits are read here, the rest is in the arguments.
        schedule: The learning rate's schedule and the run's clock.
        rows: The rows of the dataset, which is that of ``rows_to_dataset``.
        **kwargs: As for sentence-transformers' trainer.
    """

    def __init__(self, settings: TrainingSettings, schedule: Schedule, rows: Rows, **kwargs: Any) -> None:
        self.settings = settings
        self.schedule = schedule
        self.shuffled_batches: ShuffledBatches
        self.rows = rows
        self.throughput = Throughput(kwargs["model"])
        super().__init__(**kwargs)
        self.remove_callback(ProgressCallback)
        for callback in (_EpochSetter(self), Clock(schedule, self.evaluator is not None), Progress(schedule)):
            self.add_callback(callback)

    def get_batch_sampler(self, dataset: Any, batch_size: int, **kwargs: Any) -> ShuffledBatches:
        """Our own order; a rest that fills no batch is left out, as it must be with several processes."""
        if self.settings.batch_tokens is None:
            self.shuffled_batches = ShuffledBatches(len(dataset), batch_size, self.args.seed)
        else:
            processes = self.args.world_size
            tokens = self.settings.batch_tokens // processes
            self.shuffled_batches = TokenBatches(self._sizes(), tokens, processes, self.args.seed)
        return self.shuffled_batches

    def _sizes(self) -> np.ndarray:
        """Documents of each row and tokens of its longest document, which the model cuts."""
        sizes = self.rows.sizes()
        longest = self.model.max_seq_length
        return sizes if longest is None else np.minimum(sizes, np.array([sizes.max() + 1, longest], dtype=sizes.dtype))

    def count_steps(self) -> dict[str, int]:
        """Steps that were made and the rows in them, and the step whose weights are kept."""
        steps = self.state.global_step
        kept = steps if self.evaluator is None else self.state.best_global_step
        return {"made": steps, "rows": self.shuffled_batches.count_rows(steps * self.args.world_size), "kept": kept}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Our own schedule, over steps and seconds."""
        if not self.settings.is_limited_by_time_alone:
            self.schedule.max_steps = num_training_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.schedule)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in sentence-transformers.

        Raises:
            ValueError: If the loss is not finite; names the step and the rows. No weight has been changed by it.
        """
        sources = inputs.pop(SOURCE_COLUMN)
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; the rows are {'; '.join(sources)}. "
                f"The checkpoints in {self.args.output_dir} are from before."
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in sentence-transformers; torch's generators are restored, so that measuring changes no weight."""
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in transformers; beside each loss ``documents_per_second``, ``tokens_per_second`` and ``seconds_left``."""
        if "loss" in logs:
            logs |= self.throughput.figures(self.args.world_size)
            if (left := self.schedule.seconds_left(self.state.global_step)) is not None:
                logs["seconds_left"] = left
        super().log(logs, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers looks whether a run is over only after a step: resuming one that ended within an epoch would make one more.
        if self.state.global_step >= self.state.max_steps or self.schedule.is_over_time:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # transformers deletes an old checkpoint only after the new one is written: where that fails, the last good one is there.
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save and safetensors have errors of their own
            if is_complete(folder, self.args.world_size):  # only what comes after writing, such as a push, has failed
                raise
            shutil.rmtree(folder, ignore_errors=True)  # half a checkpoint; its room may be what is missing
            rest = list_checkpoints(folder.parent)
            last = f"the last good checkpoint is {rest[-1]}" if rest else "there is no checkpoint yet"
            raise OSError(f"step {self.state.global_step}: {folder} could not be written: {error}; {last}") from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Not sentence-transformers' own: it pickles the arguments, and writes a model card each time. transformers calls this in every
        # process, and two of them would write the same files.
        if not self.args.should_save:
            return
        self.model.save(output_dir or self.args.output_dir, create_model_card=False)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Not transformers' own: it uploads pickled arguments, and says nothing of a push that failed.
        if self.args.push_to_hub and self.is_world_process_zero():
            message = f"Checkpoint of step {self.state.global_step}"
            push_checkpoint(Path(checkpoint_folder), str(self.args.hub_model_id), message)

    def _load_best_model(self) -> None:
        # Not sentence-transformers' own: it logs a failure and keeps the last weights in place of the best.
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class RerankerTrainer(ExactTrainer, CrossEncoderTrainer):
    """Trains MICE, or a plain cross-encoder, on the rows of ``rows_to_dataset``.

    Args:
        settings: As for ``ExactTrainer``, like the next two.
        schedule: The learning rate's schedule and the run's clock.
        rows: The rows of the dataset.
        loss_name: Name of the loss.
        stored: Text of a document -> states to take in its place.
        **kwargs: As for ``CrossEncoderTrainer``.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        schedule: Schedule,
        rows: Rows,
        loss_name: str,
        stored: Mapping[str, DocumentStates] | None = None,
        **kwargs: Any,
    ) -> None:
        collator = RerankerDataCollator(
            preprocess_fn=kwargs["model"].preprocess,
            stored={} if stored is None else stored,
            in_pairs=LAYOUTS[loss_name] == "pairs",
            temperature=settings.temperature,
        )
        super().__init__(settings, schedule, rows, data_collator=collator, **kwargs)
