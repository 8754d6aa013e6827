"""What surrounds the updates of a run: evaluating, saving, stopping, reporting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vitrail.data.loader import Batch
from vitrail.errors import DataError, NonFiniteError
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.interrupts import Interrupted, Interrupts
from vitrail.training.run_state import Best, RunState, last_checkpoint_name, save_checkpoint
from vitrail.training.schedule import Plan

Evaluate = Callable[[nn.Module], Mapping[str, float]]
_MAX_FILES_NAMED = 8
_SMOOTHING = 0.9  # of the speed shown


class Session:
    """One stay in the training loop; a resumed run has several. Arguments as in `loop.train`."""

    def __init__(
        self,
        state: RunState,
        plan: Plan,
        config: TrainConfig,
        folder: Path | None,
        events: Events,
        evaluate: Evaluate | None,
        key: Callable[[int], str],
    ) -> None:
        self.state, self.plan, self.config = state, plan, config
        self.folder, self.events, self.evaluate, self.key = folder, events, evaluate, key
        self._first_step = state.step
        self._seconds_before = state.seconds
        self._begin = self._saved_at = self._reported_at = time.monotonic()
        is_saved = folder is not None and last_checkpoint_name(folder) is not None
        self._saved = (state.step, state.evaluated_step) if is_saved else None
        self._step_seconds: float | None = None
        self._evaluation: Mapping[str, float] = state.best.metrics if state.best else {}
        self._known_broken: set[int] = set()

    def is_over(self) -> bool:
        return self.state.stopped is not None or self.state.step >= self.plan.total_steps

    def evaluate_if_due(self, interrupts: Interrupts) -> None:
        """Evaluate the averaged weights, or the raw ones where there is no average; keep the best; stop early.

        A signal abandons the evaluation: the resumed run begins with it.
        """
        state = self.state
        is_due = self.plan.evaluates_after(state.step) and state.evaluated_step < state.step
        if self.evaluate is None or not is_due or interrupts.pending is not None:
            return
        model = state.objective.model if state.averaged is None else state.averaged.model
        metrics: dict[str, float] | None = None
        with interrupts.abandoning():
            metrics = dict(self.evaluate(model.eval()))
        state.objective.train()
        if metrics is None:
            return
        state.evaluated_step = state.step
        self._evaluation = metrics
        self.events.metrics(state.step, **{f"validation_{name}": value for name, value in metrics.items()})
        self._keep_if_best(model, metrics)
        patience = self.plan.patience_steps
        since_best = state.step - (state.best.step if state.best else 0)
        if patience is not None and since_best >= patience and state.step < self.plan.total_steps:
            state.stopped = f"no better evaluation for {since_best / self.plan.steps_per_epoch:.3g} epochs"
            self.events.note(f"stopped early after step {state.step}: {state.stopped}")
        self._reported_at = time.monotonic()

    def _keep_if_best(self, model: nn.Module, metrics: dict[str, float]) -> None:
        state = self.state
        score = state.objective.score(metrics)
        if not all(map(math.isfinite, score)):
            self.events.warning(f"step {state.step}: the evaluation is not finite; these weights are not kept as best")
        elif state.best is None or score > state.best.score:
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
            if all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
                state.best = Best(state.step, score, finite, weights)

    def save_if_due(self, interrupts: Interrupts) -> None:
        """Save at the end, at the config's rhythm and on a signal.

        Raises:
            Interrupted: a signal is pending; everything is saved.
        """
        state, config = self.state, self.config
        minutes = (time.monotonic() - self._saved_at) / 60
        every = config.checkpoint_every_steps
        is_due = (
            self.is_over()
            or interrupts.pending is not None
            or (state.step > self._first_step and minutes >= config.checkpoint_every_minutes)
            or (every is not None and state.step > 0 and state.step % every == 0)
        )
        if is_due and self.folder is not None and self._saved != (state.step, state.evaluated_step):
            state.seconds = self._seconds_before + time.monotonic() - self._begin
            save_checkpoint(self.folder, state, config.keep_checkpoints)
            self._saved, self._saved_at = (state.step, state.evaluated_step), time.monotonic()
        if interrupts.pending is not None:
            where = f"; go on with: vitrail fit --resume {self.folder}" if self.folder is not None else ""
            raise Interrupted(interrupts.pending, f"stopped after step {state.step} of {self.plan.total_steps}{where}")

    def fetch(self, batches: Iterator[Batch], interrupts: Interrupts) -> Batch:
        """The next batch.

        Raises:
            Interrupted: the signal that arrived was sent to the loader's workers as well, and ended them (a terminal
                and some schedulers signal the whole group of processes); everything is saved.
        """
        try:
            return next(batches)
        except DataError:
            if interrupts.pending is None:
                raise
            self.save_if_due(interrupts)
            raise

    def require_finite(self, totals: Mapping[str, Tensor], norm: Tensor, batch: Batch) -> dict[str, float]:
        """The numbers of one update, read from the device.

        Raises:
            NonFiniteError: the loss or the norm of the gradients is not finite.
        """
        numbers = torch.stack([*totals.values(), norm]).tolist()  # one wait for the device, not one for each number
        metrics = dict(zip([*(f"train_{name}" for name in totals), "gradient_norm"], numbers, strict=True))
        if math.isfinite(metrics["train_loss"]) and math.isfinite(metrics["gradient_norm"]):
            return metrics
        files = [self.key(index) for index in batch.indices.tolist()]
        named = ", ".join(files[:_MAX_FILES_NAMED])
        if len(files) > _MAX_FILES_NAMED:
            named += f" and {len(files) - _MAX_FILES_NAMED} more"
            self.events.note(f"files of the batch of step {self.state.step + 1}: {', '.join(files)}")
        last = None if self.folder is None else last_checkpoint_name(self.folder)
        raise NonFiniteError(
            f"step {self.state.step + 1}: loss {metrics['train_loss']}, gradient norm {metrics['gradient_norm']};"
            f" stopped before the update. Files of the batch: {named}. Last good checkpoint: {last or 'none'}."
            " A lower learning rate (--optimizer.learning-rate) or a longer warm-up most often helps"
        )

    def report(self, batch: Batch, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Tell the events what one update gave. `metrics` is empty where the batch was."""
        state, plan, now = self.state, self.plan, time.monotonic()
        for index, message in batch.broken:
            if index not in self._known_broken:
                self._known_broken.add(index)
                self.events.warning(f"left out: {message}")
        seconds, self._reported_at = now - self._reported_at, now
        previous = seconds if self._step_seconds is None else self._step_seconds
        self._step_seconds = _SMOOTHING * previous + (1 - _SMOOTHING) * seconds
        whole = self._seconds_before + now - self._begin
        epoch = state.step / plan.steps_per_epoch
        self.events.metrics(state.step, epoch=epoch, **metrics, learning_rate=learning_rate, seconds=whole)
        steps_here = state.step - self._first_step
        self.events.progress(
            "training",
            state.step,
            plan.total_steps,
            **metrics,
            epoch=epoch,
            images_per_second=len(batch.indices) / max(self._step_seconds, 1e-9),
            seconds_left=(now - self._begin) / steps_here * (plan.total_steps - state.step),
            **{f"validation_{name}": value for name, value in self._evaluation.items()},
        )
