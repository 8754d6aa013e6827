"""A recipe made for a cluster, shrunk to the machine at hand without changing the shape of its schedule."""

from __future__ import annotations

import math
from dataclasses import replace

from vitrail.errors import ConfigError
from vitrail.training.config import TrainConfig

SMALLEST_BATCH = 32


def shrink(config: TrainConfig, scale: float) -> tuple[TrainConfig, list[str]]:
    """The recipe with `scale` times the updates and `scale` times the pictures an update, at least SMALLEST_BATCH.

    The warm-up keeps its share of the run. The learning rate follows the batch: in proportion for SGD
    (Goyal et al. 2017), with the square root for Adam and Muon (Malladi et al. 2022).

    Returns:
        The config, and a sentence for everything that is not as the recipe has it.
    Raises:
        ConfigError: a scale that is not in (0, 1].
    """
    if not 0.0 < scale <= 1.0:
        raise ConfigError(f"scale {scale} is not above 0 and at most 1")
    if scale == 1.0:
        return config, []
    batch_size = min(config.batch_size, max(SMALLEST_BATCH, round(config.batch_size * scale)))
    micro_batch = config.batch_size // config.accumulation_steps
    accumulation_steps = math.ceil(batch_size / micro_batch)
    batch_size = batch_size // accumulation_steps * accumulation_steps
    ratio = batch_size / config.batch_size
    factor = ratio if config.optimizer.name == "sgd" else math.sqrt(ratio)
    old, optimizer = config.schedule, config.optimizer
    # Epochs count pictures: so many updates, of so many pictures each.
    of_epochs = scale * ratio
    schedule = replace(
        old,
        epochs=old.epochs * of_epochs,
        steps=None if old.steps is None else max(1, round(old.steps * scale)),
        warmup_epochs=old.warmup_epochs * of_epochs,
    )
    small = replace(
        config,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        schedule=schedule,
        optimizer=replace(optimizer, learning_rate=optimizer.learning_rate * factor),
        # Ten looks are enough for a run that was cut short.
        evaluate_every_epochs=max(config.evaluate_every_epochs * of_epochs, schedule.epochs / 10),
    )
    length = (
        f"epochs {old.epochs:g} -> {schedule.epochs:g}"
        if old.steps is None
        else f"steps {old.steps} -> {schedule.steps}"
    )
    return small, [
        f"{length}, warm-up epochs {old.warmup_epochs:g} -> {schedule.warmup_epochs:g}",
        f"batch {config.batch_size} -> {batch_size}",
        f"learning rate {optimizer.learning_rate:g} -> {small.optimizer.learning_rate:g}, for the smaller batch",
    ]
