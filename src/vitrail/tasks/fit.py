"""The main job: from pictures to a trained, checked and usable classifier."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitrail.data.config import DataConfig
from vitrail.data.facts import describe
from vitrail.data.sources import absolute_spec, open_source
from vitrail.data.split import TRAIN, VALIDATION
from vitrail.errors import ConfigError
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes import Situation, choose, get_recipe
from vitrail.tasks.begin import begin
from vitrail.tasks.floor import Floor, floor_from_json, measure_floor
from vitrail.tasks.nearest import write_nearest
from vitrail.tasks.prepare import (
    PreparedData,
    describe_splits,
    prepare_data,
    read_data_record,
    reopen_data,
)
from vitrail.tasks.pretraining import PretrainingResult, resume_pretraining
from vitrail.tasks.result import RunResult, finish
from vitrail.tasks.run import Run, new_run, resolved
from vitrail.tasks.situation import situation
from vitrail.tasks.starting import find_start, load_start, write_start
from vitrail.tasks.timing import Stopwatch
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events, TextLog
from vitrail.training.run_folder import COMMAND_FILE, LOG_FILE, lock_run, read_config
from vitrail.training.run_state import load_latest_checkpoint


@dataclass(frozen=True)
class FitConfig:
    data: str  # as DataConfig.source
    minutes: float | None = None  # for the whole command, about
    # As weights.load.load; "none": from nothing; None: good public weights, chosen for the data and the machine.
    weights: str | None = None
    image_size: int | None = None  # pixels a side that the model sees; None: as the weights or the recipe have it
    out: str | None = None  # the run folder; None: runs/<name of the data>
    strict: bool = False
    balance: bool = False
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"minutes {self.minutes} is not positive")


def fit(config: FitConfig, events: Events, command: str = "") -> RunResult:
    """Check, split, measure the floor, choose a recipe, train, evaluate once.

    Args:
        command: what the user typed, for command.txt.
    Raises:
        DataError, WeightsError, RunError, NonFiniteError, Interrupted: each says what to do next.
    """
    watch = Stopwatch()
    # Absolute, so that a resume from another folder finds the pictures.
    data = DataConfig(source=absolute_spec(config.data), strict=config.strict)
    source = open_source(config.data, progress=events.download)
    facts = situation(data, source).facts
    with watch.phase("weights"):
        start = find_start(config.weights, facts, config.minutes, events, choose=True)
    bundle = None if start is None else start.bundle
    with new_run(config.out, source.name, events) as folder:
        with watch.phase("check"):
            prepared = prepare_data(source, data, events)
        events.note(f"data: {describe_splits(prepared)}")
        with watch.phase("floor"):
            floor = measure_floor(prepared, bundle, config.seed, events)
        events.note(f"floor, without any training: {floor.describe()} (validation accuracy)")
        facts = describe(source, prepared.indices(TRAIN))
        given = Situation(data, facts, None if start is None else start.for_recipe(), config.seed, config.balance)
        choice = choose(given)
        events.note(f"recipe: {choice.recipe}, because {choice.reason}")
        recipe = replace(get_recipe(choice.recipe)(given), tensorboard=config.tensorboard)
        if config.image_size is not None:
            recipe = at_size(recipe, config.image_size)
        if isinstance(recipe.objective, SupervisedConfig) and not config.balance and validation_is_more_even(prepared):
            recipe = replace(recipe, objective=replace(recipe.objective, prior_strength=1.0))
            events.note(
                "classes: the validation pictures are spread more evenly over them than the training pictures;"
                " the loss is adjusted for it"
            )
        run = Run(resolved(recipe, prepared), prepared, events, bundle)
        write_start(folder, start, run.surgery)
        begin(run, folder, floor, watch, command, config.minutes)
        return complete(run, folder, floor, watch, command, choice.reason)


def at_size(config: TrainConfig, side: int) -> TrainConfig:
    """The config for pictures of another size; weights it starts from get their positions stretched to it.

    Raises:
        ConfigError: the model's patches or stages do not divide it.
    """
    unit = config.model.side_multiple
    if side < unit or side % unit:
        fitting = max(unit, round(side / unit) * unit)
        raise ConfigError(f"image_size {side} is no multiple of {unit}, as the model needs it; {fitting} is one")
    return replace(
        config,
        model=replace(config.model, image_size=(side, side)),
        preprocessing=replace(config.preprocessing, image_size=(side, side)),
    )


def validation_is_more_even(prepared: PreparedData) -> bool:
    """Whether a model that learns how frequent the training classes are would learn something wrong.

    True where the training pictures are at least 0.1 in total variation from an even spread, and the validation
    pictures, which stand for those to come, less than half as far.
    """
    distances = []
    for split in (TRAIN, VALIDATION):
        shares = prepared.class_counts(split) / max(1, len(prepared.indices(split)))
        distances.append(0.5 * float(np.abs(shares - 1 / len(shares)).sum()))
    return distances[0] >= 0.1 and distances[1] < 0.5 * distances[0]


def complete(
    run: Run, folder: Path, floor: Floor, watch: Stopwatch, command: str, recipe_reason: str = ""
) -> RunResult:
    with watch.phase("training"):
        run.train(folder)
    with watch.phase("evaluation"):
        result = finish(run, folder, floor, watch.phases, command, recipe_reason)
    with watch.phase("nearest"):
        write_nearest(run, folder)
    return result


def resume(folder: str, events: Events) -> RunResult | PretrainingResult:
    """Go on with a run exactly where it stopped; a run that had ended is evaluated and written again, unchanged.

    Raises:
        RunError: no run folder, or its pictures are not there any more.
    """
    place = Path(folder)
    config: TrainConfig = read_config(place)
    if not isinstance(config.objective, SupervisedConfig):
        return resume_pretraining(config, place, events)
    with lock_run(place):
        events.add(TextLog(place / LOG_FILE))
        watch = Stopwatch()
        with watch.phase("check"):
            record = read_data_record(place)
            prepared = reopen_data(config.data, record, place)
        checkpoint, skipped = load_latest_checkpoint(place)
        for sentence in skipped:
            events.warning(sentence)
        bundle = None
        if checkpoint is None and config.weights is not None:
            bundle = load_start(config.weights, events).bundle
        run = Run(config, prepared, events, bundle)
        run.restore(checkpoint)
        command = ""
        with suppress(OSError):
            command = (place / COMMAND_FILE).read_text(encoding="utf-8").strip()
        return complete(run, place, floor_from_json(record["floor"], prepared), watch, command)
