"""Fine-tuning as the paper did it: learning rates tried on held-out training pictures, then one run on all of them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import DataConfig
from vitrail.data.order import steps_per_epoch
from vitrail.data.sources import absolute_spec, open_source
from vitrail.data.split import TRAIN, VALIDATION
from vitrail.errors import ConfigError, NonFiniteError, RunError
from vitrail.evaluators.calibration import fit_temperature
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.sweeps import SweepConfig
from vitrail.storage import remove_folder, write_json
from vitrail.tasks.floor import Floor, measure_floor
from vitrail.tasks.inference import ask
from vitrail.tasks.nearest import write_nearest
from vitrail.tasks.prepare import PreparedData, describe_splits, hold_out, prepare_data
from vitrail.tasks.result import RunResult, finish
from vitrail.tasks.run import Run, accuracy_and_loss, resolved
from vitrail.tasks.several import make_folder, plain, require_same, require_same_pictures, settle, train_in
from vitrail.tasks.starting import Start, load_start
from vitrail.tasks.timing import Stopwatch
from vitrail.tasks.tried_rates import Sweep, TriedRate, write_sweep
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events, TextLog
from vitrail.training.interrupts import Interrupted
from vitrail.training.run_folder import COMMAND_FILE, CONFIG_FILE, LOG_FILE, lock_run, read_config
from vitrail.training.run_state import CHECKPOINTS
from vitrail.training.schedule import make_plan

FEW_HELD_OUT = 100  # below this, chance alone orders rates that are about as good
FOLDER, SETTINGS_FILE, RESULT_FILE = "sweep", "settings.json", "held_out.json"


def sweep(
    config: TrainConfig,
    rates: SweepConfig,
    out: str | None,
    events: Events,
    command: str = "",
    prepared: PreparedData | None = None,
) -> RunResult:
    """Run each learning rate on a part of the training pictures, then the best on all of them; evaluate that one once.

    A validation split that the data brings is what the rate is chosen on, and is not learnt from; else a share of the
    training pictures is held out, and learnt from in the end. No run chooses among its steps: the weights after the
    last update count (their average, where the recipe has one). The test pictures are seen by the last run alone.

    Args:
        out: the folder of the last run, with the others below sweep/; None: runs/<recipe>-<data>. One that holds this
            sweep already is gone on with.
        prepared: the pictures of config.data, divided; None: checked and divided as `fit` does.
    Raises:
        ConfigError, DataError, WeightsError, RunError, NonFiniteError, Interrupted: each says what to do next; finished
            runs are kept.
    """
    if not isinstance(config.objective, SupervisedConfig):
        raise ConfigError(f"objective '{config.objective.kind}' has no labels to choose a rate by: leave --sweep out")
    if config.data.validation_share not in (0.0, DataConfig("").validation_share):
        raise ConfigError("data.validation_share is not used by a sweep; say what it holds out with --held-out")
    source = open_source(config.data.source, progress=events.download)
    folder = make_folder(Path(out) if out is not None else Path("runs") / f"{config.recipe}-{plain(source.name)}")
    data = replace(config.data, source=absolute_spec(config.data.source), validation_share=0.0)
    config = replace(config, data=data)
    with lock_run(folder):
        settings = {"config": to_dict(config), "sweep": to_dict(rates)}
        require_same(folder, folder / FOLDER / SETTINGS_FILE, settings, "sweep")
        events.add(TextLog(folder / LOG_FILE))
        watch = Stopwatch()
        with watch.phase("check"):
            whole = prepare_data(source, data, events) if prepared is None else prepared
        try:
            return _sweep(config, rates, whole, folder, events, command, watch)
        except Interrupted as stop:
            raise Interrupted(stop.signal_number, f"stopped; go on with: vitrail fit --resume {folder}") from stop


def is_sweep(folder: str) -> bool:
    """Whether a folder holds a sweep.

    Raises:
        RunError: it holds one run of a sweep, which goes on with the others: alone it would be scored on the test side.
    """
    trials = Path(folder).absolute().parent
    if trials.name == FOLDER and (trials / SETTINGS_FILE).exists():
        raise RunError(f"{folder}: one run of a sweep; go on with all: vitrail fit --resume {trials.parent}")
    return (Path(folder) / FOLDER / SETTINGS_FILE).exists()


def resume_sweep(folder: str, events: Events) -> RunResult:
    """Go on with a sweep; of one that had ended the last run is evaluated and written again, unchanged."""
    place = Path(folder)
    path = place / FOLDER / SETTINGS_FILE
    try:
        settings = json.loads(path.read_bytes())
        config, rates = settings["config"], settings["sweep"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); start a new sweep with another --out") from error
    command = ""
    for described in (place, *sorted((place / FOLDER).glob("rate-*"))):
        with suppress(OSError):
            command = command or (described / COMMAND_FILE).read_text(encoding="utf-8").strip()
    where = str(path)
    return sweep(from_dict(TrainConfig, config, where), from_dict(SweepConfig, rates, where), folder, events, command)


def _sweep(
    config: TrainConfig,
    rates: SweepConfig,
    whole: PreparedData,
    folder: Path,
    events: Events,
    command: str,
    watch: Stopwatch,
) -> RunResult:
    has_own = bool(len(whole.indices(VALIDATION)))
    part = whole if has_own else hold_out(whole, rates.held_out_share, config.data.seed)
    num_held_out = len(part.indices(VALIDATION))
    if not has_own and num_held_out < FEW_HELD_OUT:
        events.warning(
            f"{num_held_out} held-out pictures are few to choose by, one is {100 / num_held_out:.1f} points;"
            " --held-out takes a larger share"
        )
    start = None if config.weights is None else load_start(config.weights, events)
    with watch.phase("floor"):
        floor = measure_floor(part, None if start is None else start.bundle, config.seed, events)
    events.note(f"floor, without any training: {floor.describe()} (validation accuracy)")
    places = {rate: folder / FOLDER / f"rate-{rate:g}" for rate in rates.learning_rates}
    require_same_pictures((*places.values(), folder), whole)
    base = _settled(resolved(config, whole), part, list(places.values()), events, start)
    tried = []
    for number, (rate, place) in enumerate(places.items(), start=1):
        events.note(f"run {number} of {len(places) + 1}: learning rate {rate:g}")
        tried.append(_try(at_rate(base, rate), part, floor, place, events, command, start))
        accuracy = tried[-1].accuracy
        scored = "it diverged" if accuracy is None else f"{100 * accuracy:.2f} % of the held-out pictures named right"
        events.note(f"learning rate {rate:g}: {scored}")
    if all(rate.accuracy is None for rate in tried):
        raise NonFiniteError(f"{folder}: every learning rate diverged; try smaller ones with --rates and another --out")
    found = Sweep(tuple(tried), len(part.indices(TRAIN)), num_held_out, has_own)
    write_sweep(folder, found)
    events.note(f"run {len(places) + 1} of {len(places) + 1}, on all training pictures. {found.describe()}")
    before = {**watch.phases, "sweep": sum(rate.seconds for rate in tried)}

    def end(run: Run, seconds: dict[str, float]) -> RunResult:
        durations = {**before, **seconds}
        result = finish(run, folder, floor, durations, command)
        with watch.phase("nearest"):
            write_nearest(run, folder)
        durations["nearest"] = watch.phases["nearest"]
        return result

    return train_in(folder, at_rate(base, found.chosen.learning_rate), whole, floor, events, command, end, start)


def at_rate(config: TrainConfig, learning_rate: float) -> TrainConfig:
    return replace(config, optimizer=replace(config.optimizer, learning_rate=learning_rate))


def _settled(
    config: TrainConfig, part: PreparedData, places: list[Path], events: Events, start: Start | None
) -> TrainConfig:
    """What is the same for all runs: precision and threads, by one trial or as in those that have begun; and one
    evaluation, at the end. Says what is going to happen."""
    num_train, num_held_out = len(part.indices(TRAIN)), len(part.indices(VALIDATION))
    plan = make_plan(config, steps_per_epoch(num_train, config.batch_size))
    begun = [read_config(place) for place in places if (place / CONFIG_FILE).exists()]
    if begun:
        config, duration = (
            replace(
                config,
                precision=begun[0].precision,
                num_threads=begun[0].num_threads,
                fused_blocks=begun[0].fused_blocks,
            ),
            "",
        )
    else:
        config, trial = settle(config, part, events, start)
        minutes = (len(places) + 1) * plan.total_steps * trial.seconds_per_step / 60
        duration = f"; about {max(1, round(minutes))} min in all"
    events.note(f"data: {describe_splits(part)}")
    events.note(
        f"sweep: {len(places)} runs of {plan.total_steps:,} updates on {num_train:,} training pictures, each scored on"
        f" {num_held_out:,} others; then one with the best learning rate on all training pictures{duration}"
    )
    rhythm = plan.total_steps / plan.steps_per_epoch
    return replace(config, evaluate_every_epochs=rhythm, early_stopping_epochs=None)


def _try(
    config: TrainConfig,
    part: PreparedData,
    floor: Floor,
    place: Path,
    events: Events,
    command: str,
    start: Start | None,
) -> TriedRate:
    """One learning rate; what came of it is kept in RESULT_FILE, and its checkpoints are not."""
    path = place / RESULT_FILE
    if path.exists():
        events.note("finished before, and kept")
        try:
            return TriedRate(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it, and give the command again") from error
    rate, name = config.optimizer.learning_rate, str(place.relative_to(place.parents[1]))

    def end(run: Run, seconds: dict[str, float]) -> TriedRate:
        answers = ask(run.best_model(), run.validation, config.preprocessing)
        metrics = accuracy_and_loss(answers)
        temperature = fit_temperature(answers.labels, answers.values)
        return TriedRate(rate, metrics["accuracy"], metrics["loss"], temperature, run.state.seconds, name)

    try:
        result = train_in(place, config, part, floor, events, command, end, start)
    except NonFiniteError as error:
        events.warning(f"learning rate {rate:g} diverged: {error}")
        result = TriedRate(rate, None, None, None, 0.0, name)
    write_json(path, asdict(result))
    remove_folder(place / CHECKPOINTS)
    return result
