"""The learning rate over a run that steps, seconds or both limit, and the callbacks that keep its clock."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mice_st.training.settings import TrainingSettings


class Schedule:
    """Factor of the learning rate after a number of steps; give it to ``LambdaLR``.

    The run's progress is that of its steps or that of its seconds, whichever is further, so that a run that time
    ends also ends with a low learning rate. ``LambdaLR`` saves the attributes with every checkpoint (all are plain
    numbers and strings), so that a resumed run goes on with the clock where it stood.

    Args:
        settings: Their fields ``schedule``, ``warmup`` and ``max_seconds`` count.
        max_steps: Number of steps, or None where time alone limits the run.
        elapsed_seconds: Training time spent before the first step.
    """

    def __init__(self, settings: TrainingSettings, max_steps: int | None, elapsed_seconds: float = 0.0) -> None:
        self.kind = settings.schedule
        self.warmup = settings.warmup
        self.max_steps = max_steps
        self.max_seconds = settings.max_seconds
        self.start_seconds = elapsed_seconds
        self.elapsed_seconds = elapsed_seconds

    @property
    def is_over_time(self) -> bool:
        """Whether the seconds are spent."""
        return self.max_seconds is not None and self.elapsed_seconds >= self.max_seconds

    def progress(self, step: int) -> float:
        """How far the run is, 0 to 1, before ``step`` (counted from 0)."""
        # step + 1: the first step has a learning rate above 0, and so has the last.
        by_steps = 0.0 if self.max_steps is None else (step + 1) / (self.max_steps + 1)
        by_time = 0.0
        if self.max_seconds is not None:
            by_time = (self.elapsed_seconds - self.start_seconds) / max(self.max_seconds - self.start_seconds, 1e-9)
        return min(1.0, max(by_steps, by_time))

    def seconds_left(self, steps_done: int) -> float | None:
        """Estimated training seconds until the end, from the time of the steps so far; None before the first step.

        A run that goes on counts the time of the steps before it stopped too.
        """
        spent = self.elapsed_seconds - self.start_seconds
        by_time = None if self.max_seconds is None else max(0.0, self.max_seconds - self.elapsed_seconds)
        if self.max_steps is None or not steps_done:
            return by_time
        by_steps = spent / steps_done * (self.max_steps - steps_done)
        return by_steps if by_time is None else min(by_steps, by_time)

    def __call__(self, step: int) -> float:
        """The factor for ``step``, counted from 0."""
        progress = self.progress(step)
        if progress < self.warmup:
            return progress / self.warmup
        rest = (1.0 - progress) / (1.0 - self.warmup)
        if self.kind == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * rest)
        return rest if self.kind == "linear" else 1.0


class Clock(TrainerCallback):
    """Counts the seconds of training steps, ends a run that is over time, and asks for a last checkpoint.

    Evaluation and saving do not count. With several processes the first one's clock is everybody's, because all must
    stop at the same step.
    """

    def __init__(self, schedule: Schedule, evaluates: bool) -> None:
        self.schedule = schedule
        self.evaluates = evaluates
        self._began = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting."""
        self._began = time.perf_counter()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop counting, before the trainer asks the schedule for the next learning rate."""
        self.schedule.elapsed_seconds += time.perf_counter() - self._began
        if self.schedule.max_seconds is not None and args.world_size > 1:
            shared = torch.tensor([self.schedule.elapsed_seconds], dtype=torch.float64, device=args.device)
            torch.distributed.broadcast(shared, 0)
            self.schedule.elapsed_seconds = float(shared)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The last step is evaluated and saved, whatever its number."""
        if self.schedule.is_over_time:
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_evaluate = self.evaluates
            control.should_save = True
        return control


class Progress(TrainerCallback):
    """One progress bar over the steps, or over the seconds of a run that time alone limits."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._bar: Any = None
        self._figures: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar, in the first process."""
        timed = self.schedule.max_steps is None
        self._bar = tqdm(
            total=round(self.schedule.max_seconds or 0) if timed else state.max_steps,
            initial=round(self.schedule.elapsed_seconds) if timed else state.global_step,
            desc="Training",
            unit="s" if timed else "step",
            delay=2,
            disable=not state.is_world_process_zero,
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss, learning rate, speed and nDCG@10."""
        for key, value in (logs or {}).items():
            if key in ("loss", "learning_rate") or key.endswith("ndcg@10"):
                self._figures[key.removeprefix("eval_")] = f"{value:.4g}"
            elif key in ("documents_per_second", "tokens_per_second"):
                self._figures[key.replace("_per_second", "/s")] = f"{value:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move on."""
        reached = round(self.schedule.elapsed_seconds) if self.schedule.max_steps is None else state.global_step
        self._bar.update(min(reached, self._bar.total) - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it is."""
        self._bar.close()
