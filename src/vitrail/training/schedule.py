"""Learning rates as pure functions of the step, and the plan of a run in whole steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vitrail.errors import ConfigError
from vitrail.training.config import ScheduleConfig, TrainConfig


def learning_rate_at(
    step: int,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    decay: Literal["cosine", "linear", "constant", "stair"] = "cosine",
    end: float = 0.0,
) -> float:
    """The learning rate of update number `step`, counted from 0: with a warm-up the first update has rate 0.

    As in the code of Dosovitskiy et al. 2021 (vision_transformer, `create_learning_rate_schedule`): the decay runs
    over the steps after the warm-up, and both are multiplied, so that "linear" warms up from below its own line.

    Args:
        peak: the rate where the warm-up ends.
        total_steps: where the decay ends; later steps keep its last value.
        warmup_steps: steps of linear growth from 0.
        end: where "linear" ends; "cosine" ends at 0.
    """
    if step < 0 or total_steps < 1 or warmup_steps < 0:
        raise ValueError(f"step {step}, total_steps {total_steps}, warmup_steps {warmup_steps}: none may be negative")
    progress = min(1.0, max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))
    if decay == "cosine":
        rate = peak * 0.5 * (1 + math.cos(math.pi * progress))
    elif decay == "linear":
        rate = end + (peak - end) * (1 - progress)
    elif decay == "constant":
        rate = peak
    elif decay == "stair":
        rate = peak * 0.1 ** sum(10 * step >= tenths * total_steps for tenths in (3, 6, 9))
    else:
        raise ValueError(f"decay {decay!r} is none of cosine, linear, constant, stair")
    return rate * min(1.0, step / warmup_steps) if warmup_steps else rate


@dataclass(frozen=True)
class Plan:
    """A run in whole steps; a step is one update of the weights."""

    total_steps: int
    warmup_steps: int
    steps_per_epoch: int
    evaluate_every_steps: int
    patience_steps: int | None  # early stopping: steps without a better evaluation; None: never

    def learning_rate(self, step: int, peak: float, schedule: ScheduleConfig) -> float:
        """Of update number `step`, counted from 0."""
        return learning_rate_at(
            step,
            peak=peak,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_steps,
            decay=schedule.decay,
            end=schedule.end_learning_rate,
        )

    def evaluates_after(self, num_updates: int) -> bool:
        """Whether an evaluation is due after so many updates; the last one always is."""
        return num_updates == self.total_steps or (num_updates > 0 and num_updates % self.evaluate_every_steps == 0)


def make_plan(config: TrainConfig, steps_per_epoch: int) -> Plan:
    """Turn a config's epochs into steps.

    The warm-up is at most half of the run: a run cut short by `schedule.steps` or a time budget still reaches its
    peak rate and comes down again.

    Raises:
        ConfigError: an evaluation rhythm or a patience that is not positive.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch {steps_per_epoch} is below 1")
    schedule = config.schedule
    for name in ("evaluate_every_epochs", "early_stopping_epochs"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} {value} is not positive")
    total_steps = schedule.steps if schedule.steps is not None else max(1, round(schedule.epochs * steps_per_epoch))
    patience = config.early_stopping_epochs
    return Plan(
        total_steps=total_steps,
        warmup_steps=min(round(schedule.warmup_epochs * steps_per_epoch), total_steps // 2),
        steps_per_epoch=steps_per_epoch,
        evaluate_every_steps=max(1, round(config.evaluate_every_epochs * steps_per_epoch)),
        patience_steps=None if patience is None else max(1, round(patience * steps_per_epoch)),
    )
