"""A run by a config that the user has settled: a recipe with its fields, or another run's config.json."""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.sources import absolute_spec, open_source
from vitrail.objectives.config import SupervisedConfig
from vitrail.tasks.begin import begin
from vitrail.tasks.fit import complete
from vitrail.tasks.floor import measure_floor
from vitrail.tasks.prepare import describe_splits, prepare_data
from vitrail.tasks.pretraining import PretrainingResult, pretrain
from vitrail.tasks.result import RunResult
from vitrail.tasks.run import Run, new_run, resolved
from vitrail.tasks.starting import load_start, write_start
from vitrail.tasks.timing import Stopwatch
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events


def train(config: TrainConfig, out: str | None, events: Events, command: str = "") -> RunResult | PretrainingResult:
    """Check, split, measure the floor, train as `config` says, evaluate once; without labels, as `pretrain`.

    Args:
        out: the run folder; None: runs/<name of the data>.
        command: what the user typed, for command.txt.
    Raises:
        DataError, WeightsError, RunError, NonFiniteError, Interrupted: each says what to do next.
    """
    if not isinstance(config.objective, SupervisedConfig):
        return pretrain(config, out, events, command)
    watch = Stopwatch()
    source = open_source(config.data.source, progress=events.download)
    with new_run(out, source.name, events) as folder:
        with watch.phase("check"):
            prepared = prepare_data(source, config.data, events)
        events.note(f"data: {describe_splits(prepared)}")
        with watch.phase("floor"):
            start = None if config.weights is None else load_start(config.weights, events)
            bundle = None if start is None else start.bundle
            floor = measure_floor(prepared, bundle, config.seed, events)
        events.note(f"floor, without any training: {floor.describe()} (validation accuracy)")
        config = replace(config, data=replace(config.data, source=absolute_spec(config.data.source)))
        run = Run(resolved(config, prepared), prepared, events, bundle)
        write_start(folder, start, run.surgery)
        begin(run, folder, floor, watch, command)
        return complete(run, folder, floor, watch, command)
