"""How long the phases of a run take, and how much training fits into a budget of minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from vitrail.data.split import TEST, VALIDATION
from vitrail.models.config import ViTConfig
from vitrail.tasks.run import Run
from vitrail.training.config import TrainConfig

MAX_STRETCH = 5.0  # times the recipe's epochs: longer repeats the same few pictures for nothing
MAX_EVALUATION_SHARE = 0.1  # of the training time
MAX_NEAREST_SHARE = 0.05  # of all that is left, for the features of training pictures that are kept to be found again
LOOKED_AT = 200  # test pictures' worth of time, for what the report shows of attention
FINISH_SECONDS = 8.0  # for the bundle and the report, beside the evaluation itself


class Stopwatch:
    """Wall seconds by phase, from its creation."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.phases: dict[str, float] = {}

    def total(self) -> float:
        return time.monotonic() - self._begin

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - begin


def plan_minutes(
    config: TrainConfig,
    run: Run,
    seconds_per_step: float,
    evaluation_seconds: float,
    test_seconds: float,
    seconds: float,
) -> TrainConfig:
    """The config with as many epochs as fit into `seconds`, evaluation and the run's end included.

    The schedule keeps its shape: the warm-up shrinks or grows with it, up to the recipe's own length. Evaluations
    become rarer where they would take more than a tenth of the time, and fewer training pictures are kept to be found
    again (config.nearest_pictures) where their features would take more than a twentieth.

    Args:
        seconds_per_step: of an update with its loading, measured.
        evaluation_seconds: of one pass over the validation split on the way, measured.
        test_seconds: of one as at the end, in float32.
    """
    sizes = [len(run.prepared.indices(split)) for split in (VALIDATION, TEST)]
    # When the run is over: the test pictures, and the validation pictures once more.
    picture_seconds = test_seconds / max(1, sizes[0])
    nearest = min(config.nearest_pictures, len(run.loader.indices))
    if nearest * picture_seconds > MAX_NEAREST_SHARE * seconds:
        nearest = max(0, int(MAX_NEAREST_SHARE * seconds / picture_seconds))
        config = replace(config, nearest_pictures=nearest)
        run.events.note(f"there is time to keep {nearest:,} training pictures to be found again, and not for more")
    has_attention = isinstance(config.model, ViTConfig) and config.model.attention == "global"
    looked_at = min(LOOKED_AT, sizes[1]) if has_attention else 0
    finish = FINISH_SECONDS + test_seconds + (sizes[1] + nearest + looked_at) * picture_seconds
    epoch_seconds = run.loader.steps_per_epoch * seconds_per_step
    every = max(config.evaluate_every_epochs, evaluation_seconds / (MAX_EVALUATION_SHARE * epoch_seconds))
    available = max(0.0, seconds - finish - evaluation_seconds)
    epochs = available / (epoch_seconds + evaluation_seconds / every)
    longest = MAX_STRETCH * config.schedule.epochs
    if epochs > longest:
        epochs = longest
        run.events.note(f"there is time for more than {longest:g} epochs, {MAX_STRETCH:g} times the recipe's: no more")
    steps = max(1, int(epochs * run.loader.steps_per_epoch))
    epochs = steps / run.loader.steps_per_epoch
    if epochs < 1:
        run.events.warning(
            f"the time allows {steps} of the {run.loader.steps_per_epoch} steps of one pass over the pictures:"
            " too few to learn much; give more --minutes"
        )
    warmup = config.schedule.warmup_epochs * min(1.0, epochs / config.schedule.epochs)
    schedule = replace(config.schedule, epochs=epochs, steps=steps, warmup_epochs=warmup)
    return replace(config, schedule=schedule, evaluate_every_epochs=every)
