"""A study: a table of runs that differ in one thing, each with several seeds, kept run by run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.configuration import to_dict
from vitrail.data.config import DataConfig
from vitrail.data.sources import absolute_spec, open_source
from vitrail.errors import ConfigError, NonFiniteError, WeightsError
from vitrail.models.kinds import count_macs, count_parameters
from vitrail.models.timm_model import require_timm_model
from vitrail.recipes.compute import at_budgets, baselines
from vitrail.recipes.studies import Study, base_config, get_study
from vitrail.storage import write_file
from vitrail.tasks.floor import Floor, measure_floor
from vitrail.tasks.plan import training_flops
from vitrail.tasks.prepare import PreparedData, describe_splits, prepare_data, restrict_training
from vitrail.tasks.result import finish
from vitrail.tasks.run import Run, resolved
from vitrail.tasks.several import make_folder, plain, require_same, require_same_pictures, settle, train_in
from vitrail.tasks.situation import situation
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.interrupts import Interrupted
from vitrail.training.run_folder import CONFIG_FILE, lock_run, read_config
from vitrail.weights.bundle import read_bundle_config

STUDY_FILE, TABLE_FILE = "study.json", "study.csv"


@dataclass(frozen=True)
class StudyConfig:
    name: str  # one of recipes.studies.STUDIES
    data: str  # as DataConfig.source
    seeds: int = 3
    steps: int = 600  # updates of every run: equal compute where the cells are of equal size
    out: str | None = None  # a folder; one that holds this study already is gone on with
    baselines: tuple[str, ...] = ()  # models of timm, of a study by compute; they may be added to one that has ended

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.steps < 1:
            raise ConfigError(f"seeds {self.seeds} and steps {self.steps} must be at least 1")


@dataclass(frozen=True)
class StudyRun:
    """One finished run."""

    cell: str
    seed: int
    test_accuracy: float
    validation_accuracy: float
    parameters: int
    gmacs: float  # of one picture's forward pass
    updates: int
    training_flops: int  # of all pictures it saw, forward and backward
    folder: str


@dataclass(frozen=True)
class StudyResult:
    name: str
    study: Study
    data: str
    folder: Path
    steps: int
    runs: tuple[StudyRun, ...]
    floor: str  # name of the best floor
    floor_accuracy: float  # on the test pictures
    diverged: tuple[str, ...] = ()  # runs that are in no figure: "none, seed 2"

    def by_cell(self) -> dict[str, list[StudyRun]]:
        cells: dict[str, list[StudyRun]] = {}
        for run in self.runs:
            cells.setdefault(run.cell, []).append(run)
        return cells

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "question": self.study.question,
            "data": self.data,
            "folder": str(self.folder),
            "steps": self.steps,
            "floor": self.floor,
            "floor_test_accuracy": self.floor_accuracy,
            "diverged": list(self.diverged),
            "cells": [
                {
                    "cell": cell,
                    "test_accuracy_mean": mean_and_spread(runs)[0],
                    "test_accuracy_spread": mean_and_spread(runs)[1],
                    "test_accuracies": [run.test_accuracy for run in runs],
                    "parameters": runs[0].parameters,
                    "gmacs": runs[0].gmacs,
                    "updates": runs[0].updates,
                    "training_flops": runs[0].training_flops,
                }
                for cell, runs in self.by_cell().items()
            ],
        }


def mean_and_spread(runs: list[StudyRun]) -> tuple[float, float]:
    """Mean and sample standard deviation of the test accuracy; the latter is 0 of a single run."""
    values = np.array([run.test_accuracy for run in runs])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def run_study(config: StudyConfig, events: Events, command: str = "") -> StudyResult:
    """Run what is not finished yet, and write the table.

    Every cell sees the same seeds and pictures, and makes the same updates; in the study of compute as many as cost the
    same.

    Raises:
        DataError, RunError, Interrupted: each says what to do next; finished runs are kept. NonFiniteError: all
            diverged; some alone are left out, and named.
    """
    study = get_study(config.name)
    _check_baselines(study, config)
    data = DataConfig(source=absolute_spec(config.data))
    source = open_source(config.data)
    base = base_config(situation(data, source), config.steps)
    folder = _folder(config, source.name)
    with lock_run(folder):
        settings = {"study": config.name, "steps": config.steps, "base": to_dict(base)}
        require_same(folder, folder / STUDY_FILE, settings, "study")
        prepared = prepare_data(source, data, events)
        require_same_pictures(sorted(folder.iterdir()), prepared)
        events.note(f"data: {describe_splits(prepared)}")
        floor = measure_floor(prepared, None, 0)
        base = _settled(folder, resolved(base, prepared), prepared, events)
        cells = study.cells(base) | at_budgets(base, baselines(base, config.baselines))
        names = [(cell, seed) for seed in range(config.seeds) for cell in cells]
        runs: list[StudyRun] = []
        diverged: list[str] = []
        for number, (cell, seed) in enumerate(names, start=1):
            events.note(f"run {number} of {len(names)}: {cell}, seed {seed}")
            place = folder / f"{plain(cell)}-seed-{seed}"
            try:
                if not _is_finished(place):
                    _run(replace(cells[cell], seed=seed), prepared, floor, place, events, command)
            except NonFiniteError as error:
                events.warning(f"this run diverged and is in no figure: {error}")
                diverged.append(f"{cell}, seed {seed}")
                continue
            except Interrupted as stop:
                said = "stopped; finished runs are kept, and the same command goes on"
                raise Interrupted(stop.signal_number, said) from stop
            runs.append(_finished(cell, seed, cells[cell], place))
            _write_table(folder, runs)
    if not runs:
        raise NonFiniteError(f"{folder}: every run diverged; look at the pictures with: vitrail check {config.data}")
    best = floor.best
    return StudyResult(
        config.name,
        study,
        source.name,
        folder,
        config.steps,
        tuple(runs),
        best.name,
        best.test_accuracy,
        tuple(diverged),
    )


def _settled(folder: Path, base: TrainConfig, prepared: PreparedData, events: Events) -> TrainConfig:
    """Precision and threads of the runs that are there already; of a new study by one trial for all."""
    for path in sorted(folder.glob(f"*/{CONFIG_FILE}")):
        before = read_config(path.parent)
        return replace(
            base, precision=before.precision, num_threads=before.num_threads, fused_blocks=before.fused_blocks
        )
    return settle(base, prepared, events)[0]


def _check_baselines(study: Study, config: StudyConfig) -> None:
    if config.baselines and not study.by_compute:
        raise ConfigError(f"the study '{config.name}' takes no baselines; `vitrail study compute` does")
    for name in config.baselines:
        require_timm_model(name)


def _folder(config: StudyConfig, data: str) -> Path:
    return make_folder(
        Path(config.out) if config.out is not None else Path("runs") / f"study-{config.name}-{plain(data)}"
    )


def _run(config: TrainConfig, prepared: PreparedData, floor: Floor, place: Path, events: Events, command: str) -> None:
    def end(run: Run, seconds: dict[str, float]) -> None:
        finish(run, place, floor, seconds, command)

    train_in(place, config, restrict_training(prepared, config.data), floor, events, command, end)


def _is_finished(place: Path) -> bool:
    with suppress(WeightsError):
        read_bundle_config(place)
        return True
    return False


def _finished(cell: str, seed: int, config: TrainConfig, place: Path) -> StudyRun:
    bundle = read_bundle_config(place)
    updates = config.schedule.steps or 0
    return StudyRun(
        cell,
        seed,
        float(bundle.metrics["test_accuracy"]),
        float(bundle.metrics["validation_accuracy"]),
        count_parameters(bundle.model),
        round(count_macs(bundle.model) / 1e9, 6),
        updates,
        training_flops(bundle.model) * config.batch_size * updates,
        place.name,
    )


def _write_table(folder: Path, runs: Sequence[StudyRun]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(StudyRun))
    for run in runs:
        accuracies = {name: f"{getattr(run, name):.6f}" for name in ("test_accuracy", "validation_accuracy")}
        writer.writerow((asdict(run) | accuracies).values())
    write_file(folder / TABLE_FILE, text.getvalue().encode())
