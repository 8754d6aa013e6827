"""The training loop. It knows no objective; what it does, it does for every one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import torch

from vitrail.data.loader import Batch, Loader
from vitrail.data.order import step_seed
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.fused_block import can_fuse, set_fused
from vitrail.training.interrupts import Interrupts
from vitrail.training.optimizer import clip_gradients, set_learning_rate
from vitrail.training.precision import autocast
from vitrail.training.run_state import RunState
from vitrail.training.schedule import Plan
from vitrail.training.session import Evaluate, Session
from vitrail.training.step import accumulate_gradients, compiled

_DROPOUT, _MIXING = 0, 1  # streams of a step's random numbers


def train(
    state: RunState,
    loader: Loader,
    config: TrainConfig,
    plan: Plan,
    *,
    folder: Path | None,
    events: Events,
    evaluate: Evaluate | None = None,
    key: Callable[[int], str] = str,
) -> None:
    """Train `state` from where it is to the end of `plan`, in place.

    A run that is stopped anywhere and resumed from a checkpoint makes the same updates as one that is not.

    Args:
        loader: the training pictures.
        config: with `precision` resolved (`precision.run_trial`).
        folder: the run folder, for checkpoints; None: nothing is saved.
        evaluate: a model in evaluation mode -> metrics on the validation pictures. Must leave the model as it is.
        key: index of a sample -> its file, for messages.
    Raises:
        NonFiniteError: a loss or gradient that is not finite; the weights are those before that update.
        Interrupted: SIGTERM or Ctrl-C; the state has been saved.
        RunError: a checkpoint could not be written.
    """
    objective, optimizer = state.objective, state.optimizer
    session = Session(state, plan, config, folder, events, evaluate, key)
    if config.fused_blocks and not can_fuse(objective):
        events.warning(
            "fused_blocks: this machine has no compiler or processor for them, or they do not suit the model; blocks go"
            " the plain way, so last bits differ from those of a run that had them"
        )
    set_fused(objective, bool(config.fused_blocks))
    forward = compiled(objective, config.compile)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    generator = torch.Generator()
    batches = cast("Generator[Batch]", loader.stream(state.step, plan.total_steps))
    objective.train()
    with Interrupts() as interrupts, contextlib.closing(batches):
        while True:
            session.evaluate_if_due(interrupts)
            session.save_if_due(interrupts)
            if session.is_over():
                return
            step, batch = state.step, session.fetch(batches, interrupts)
            torch.manual_seed(step_seed(config.seed, step, _DROPOUT))
            generator.manual_seed(step_seed(config.seed, step, _MIXING))
            learning_rate = plan.learning_rate(step, config.optimizer.learning_rate, config.schedule)
            set_learning_rate(optimizer, learning_rate)
            metrics: dict[str, float] = {}
            if len(batch.indices):  # every picture of a batch may be broken
                inputs = objective.prepare(batch, generator)
                context = autocast(objective.device, config.precision)
                totals = accumulate_gradients(forward, inputs, step, config.accumulation_steps, context)
                norm = clip_gradients(parameters, config.optimizer.clip_norm)
                metrics = session.require_finite(totals, norm, batch)
                optimizer.step()
                optimizer.zero_grad()
                if state.averaged is not None:
                    state.averaged.update(step)
                objective.after_step(step)
            state.step += 1
            session.report(batch, metrics, learning_rate)
