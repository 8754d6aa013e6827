"""A suite: one backbone on many data sets, task by task, beside the published figures.

What is finished stays finished: each task's score is a file, whole or not there, and the same command goes on.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.data.published.catalog import PUBLISHED
from vitrail.data.sources import absolute_spec, open_source
from vitrail.data.sources.base import Source
from vitrail.data.sources.published import folder_of
from vitrail.data.split import TEST
from vitrail.errors import ConfigError, DataError, NonFiniteError, RunError
from vitrail.evaluators.real_labels import picture_number, real_score
from vitrail.recipes.suites import Suite, SuiteTask, get_suite, get_tasks
from vitrail.storage import write_file, write_json
from vitrail.tasks.benchmark import (
    Predicted,
    Training,
    as_published,
    finetune,
    finetune_with_sweep,
    forget_training,
    probe,
    write_predictions,
)
from vitrail.tasks.evaluate import imagenet_classes, read_real_labels
from vitrail.tasks.features import weights_digest
from vitrail.tasks.several import make_folder, plain, require_same
from vitrail.tasks.starting import Start, load_start
from vitrail.training.events import Events
from vitrail.training.interrupts import Interrupted
from vitrail.training.run_folder import lock_run

SUITE_FILE, TABLE_FILE, RESULT_FILE = "suite.json", "suite.csv", "result.json"
MAX_PROBED = 100_000  # training pictures that a probe learns from
REAL_ADDRESS = "https://github.com/google-research/reassessed-imagenet"
NOT_ASKED = "not asked for"

How = Literal["finetune", "sweep", "probe"]


@dataclass(frozen=True)
class SuiteConfig:
    name: str  # one of recipes.suites.SUITES
    backbone: str  # as weights.load.load
    data: str | None = None  # a folder with one for each data set, by its name; None: as sources.published
    tasks: tuple[str, ...] = ()  # empty: all
    how: How = "finetune"
    real_labels: str | None = None  # ImageNet-ReaL's real.json
    scale: float = 1.0  # of the recipes, as recipes.scaling.shrink
    image_size: int | None = None  # pixels a side in fine-tuning; None: as the recipe has it
    out: str | None = None  # a folder; one that holds this suite already is gone on with
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how == "probe" and (self.scale != 1.0 or self.image_size is not None):
            raise ConfigError("scale and image_size are of fine-tuning; a probe sees the pictures as the weights say")
        if self.how == "sweep" and self.name == "vtab1k":
            raise ConfigError("VTAB-1k has one setting for all tasks, so there is nothing to sweep; leave --how out")


@dataclass(frozen=True)
class TaskScore:
    task: str
    accuracy: float
    num_train: int  # pictures learnt from
    num_test: int  # pictures scored
    num_broken: int  # test pictures that could not be read, which are not among them
    seconds: float
    note: str


@dataclass(frozen=True)
class MissingTask:
    task: str
    why: str
    address: str = ""  # of the publisher
    layout: str = ""  # that is expected

    def describe(self) -> str:
        """What is missing, with the address and the layout."""
        where = f" It is at {self.address}; expected is {self.layout}."
        return self.why if self.address in self.why else self.why.rstrip(".") + "." + where


@dataclass(frozen=True)
class SuiteResult:
    config: SuiteConfig
    suite: Suite
    folder: Path
    columns: tuple[str, ...]  # of the published figures
    is_same_size: bool  # whether they are of models of the backbone's size
    scores: tuple[TaskScore, ...]
    missing: tuple[MissingTask, ...]

    def expected(self, task: str, column: str) -> float:
        """A published share of right answers."""
        return round(self.suite.tasks[task].expected[column] / 100, 6)

    @property
    def is_partial(self) -> bool:
        return bool(self.missing)

    def mean(self, group: str | None = None) -> float | None:
        """The plain mean over the tasks that have a score; None where none has."""
        values = [score.accuracy for score in self.scores if self._is_in(score.task, group)]
        return statistics.fmean(values) if values else None

    def expected_mean(self, column: str, group: str | None = None) -> float | None:
        """Over the same tasks, so that the two can be compared."""
        values = [self.expected(score.task, column) for score in self.scores if self._is_in(score.task, group)]
        return statistics.fmean(values) if values else None

    def count(self, group: str | None = None) -> tuple[int, int]:
        """Tasks with a score, and all."""
        done = sum(self._is_in(score.task, group) for score in self.scores)
        return done, sum(self._is_in(task, group) for task in self.suite.tasks)

    @property
    def not_whole(self) -> tuple[TaskScore, ...]:
        """Scores over fewer or more test pictures than the published ones."""
        return tuple(score for score in self.scores if score.num_test != self.suite.tasks[score.task].num_test)

    def _is_in(self, task: str, group: str | None) -> bool:
        return group is None or self.suite.tasks[task].group == group

    def to_json(self) -> dict[str, Any]:
        groups: list[str | None] = [None, *(self.suite.groups if len(self.suite.groups) > 1 else ())]
        means = {}
        for group in groups:
            done, of = self.count(group)
            means[group or "all"] = {
                "mean": self.mean(group),
                "expected_of_the_same_tasks": {column: self.expected_mean(column, group) for column in self.columns},
                "tasks": done,
                "of": of,
                "partial": done < of,
            }
        return {
            "suite": self.config.name,
            "backbone": self.config.backbone,
            "how": self.config.how,
            "folder": str(self.folder),
            "partial": self.is_partial,
            "mean": self.mean(),
            "means": means,
            "expected_from": self.suite.source,
            "expected_is_of_this_size": self.is_same_size,
            "tasks": [
                {
                    **asdict(score),
                    "group": self.suite.tasks[score.task].group,
                    "whole_test_split": score not in self.not_whole,
                    "expected": {column: self.expected(score.task, column) for column in self.columns},
                }
                for score in self.scores
            ],
            "missing": [asdict(task) for task in self.missing],
        }


def run_suite(config: SuiteConfig, events: Events, command: str = "") -> SuiteResult:
    """Score what has no score yet, and write the table. A task whose data is missing is left out, and said.

    Raises:
        ConfigError: no such suite or task. DataError: no such folder of data sets. WeightsError: the backbone cannot be
            read. RunError, Interrupted: each says what to do next; finished tasks are kept.
    """
    suite = get_suite(config.name)
    names = get_tasks(suite, config.tasks)
    if config.data is not None and not Path(config.data).expanduser().is_dir():
        raise DataError(f"{config.data}: there is no such folder; name one with a folder for each data set")
    start = load_start(config.backbone, events)
    folder = make_folder(_folder(config, start))
    with lock_run(folder):
        settings = {"suite": config.name, "how": config.how, "scale": config.scale, "image_size": config.image_size,
                    "seed": config.seed, "weights": weights_digest(start.bundle.model)}  # fmt: skip
        require_same(folder, folder / SUITE_FILE, settings, "suite")
        for part in ("scores", "predictions"):
            (folder / part).mkdir(exist_ok=True)
        scores: list[TaskScore] = []
        missing: list[MissingTask] = []
        for number, name in enumerate(suite.tasks, start=1):
            if name not in names:
                missing.append(MissingTask(name, NOT_ASKED))
                continue
            events.note(f"task {number} of {len(suite.tasks)}: {suite.tasks[name].title}")
            try:
                score = _task(config, suite, name, start, folder, events, command)
            except Interrupted as stop:
                said = "stopped; finished tasks are kept, and the same command goes on"
                raise Interrupted(stop.signal_number, said) from stop
            if isinstance(score, TaskScore):
                scores.append(score)
            else:
                missing.append(score)
        columns = suite.columns_of(start.bundle.config.model)
        result = SuiteResult(
            config, suite, folder, columns or (suite.reference,), bool(columns), tuple(scores), tuple(missing)
        )
        _write(result)
    return result


def _folder(config: SuiteConfig, start: Start) -> Path:
    if config.out is not None:
        return Path(config.out)
    backbone = plain(start.bundle.config.name or Path(config.backbone).stem or "backbone")
    return Path("runs") / f"{config.name}-{config.how}-{backbone}"


def _task(
    config: SuiteConfig, suite: Suite, name: str, start: Start, folder: Path, events: Events, command: str
) -> TaskScore | MissingTask:
    """Its score, from its file where it has one."""
    path, task = folder / "scores" / f"{name}.json", suite.tasks[name]
    if path.exists():
        try:
            return TaskScore(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it and give the command again") from error
    began = time.monotonic()
    try:
        if task.scored_from is not None:
            score = _score_again(config, task, name, folder)
        else:
            score = _score(config, task, name, start, folder, events, command, began)
    except NonFiniteError as error:
        events.note(f"{task.title} is left out, for now")
        return MissingTask(name, str(error))
    except DataError as error:
        data = PUBLISHED[task.published]
        is_real = task.scored_from is not None
        missing = MissingTask(
            name, str(error), REAL_ADDRESS if is_real else data.address, "real.json" if is_real else data.layout
        )
        events.note(f"{task.title} is left out, for now")
        return missing
    write_json(path, asdict(score))
    forget_training(folder / name)
    return score


def _score(
    config: SuiteConfig,
    task: SuiteTask,
    name: str,
    start: Start,
    folder: Path,
    events: Events,
    command: str,
    began: float,
) -> TaskScore:
    spec = task.data
    if config.data is not None:
        spec = f"{spec}:{folder_of(task.published, Path(config.data).expanduser())}"
    source = open_source(spec, progress=events.download)
    prepared = as_published(source, task.held_out_share, MAX_PROBED if config.how == "probe" else None)
    if config.how == "probe":
        predicted = probe(start, prepared, events)
    else:
        training = Training(task.recipe, config.scale, config.image_size, config.seed)
        train = finetune if config.how == "finetune" else finetune_with_sweep
        predicted = train(training, start, prepared, absolute_spec(spec), folder / name, events, command)
    if not len(predicted.indices):
        raise DataError(f"{spec}: no test picture can be read")
    write_predictions(folder / "predictions" / f"{name}.csv", source, predicted)
    return TaskScore(
        name,
        _accuracy(source, predicted),
        predicted.num_train,
        len(predicted.indices),
        int((source.splits == TEST).sum()) - len(predicted.indices),
        round(time.monotonic() - began, 3),
        predicted.note,
    )


def _accuracy(source: Source, predicted: Predicted) -> float:
    return float((source.labels[predicted.indices] == predicted.labels).mean())


def _score_again(config: SuiteConfig, task: SuiteTask, name: str, folder: Path) -> TaskScore:
    """The predictions of another task, by ImageNet-ReaL's labels."""
    if config.real_labels is None:
        raise DataError("the labels are not given; name the published real.json with --real")
    real_labels = read_real_labels(config.real_labels)
    path = folder / "predictions" / f"{task.scored_from}.csv"
    scored = folder / "scores" / f"{task.scored_from}.json"
    if not (path.exists() and scored.exists()):
        raise DataError(f"there are no predictions of the task {task.scored_from}, which it is scored from")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    places = [picture_number(row["file"]) for row in rows]
    if None in places:
        raise DataError(f"{path}: some of the pictures are not ImageNet's validation pictures")
    predicted = imagenet_classes(tuple(row["prediction"] for row in rows))
    score = real_score(predicted, np.array(places, dtype=np.int64), real_labels)
    before = TaskScore(**json.loads(scored.read_bytes()))
    left_out = f"{score.num_left_out:,} pictures without a label left out"
    return TaskScore(name, score.accuracy, before.num_train, score.num_pictures, before.num_broken, 0.0, left_out)


def _write(result: SuiteResult) -> None:
    """suite.csv, a line a task, and result.json."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["task", "group", "accuracy", *result.columns, "test_pictures", "train_pictures", "note"])
    for row in rows_of(result):
        writer.writerow(row)
    write_file(result.folder / TABLE_FILE, text.getvalue().encode())
    write_json(result.folder / RESULT_FILE, result.to_json())


def rows_of(result: SuiteResult) -> Sequence[Sequence[Any]]:
    """In the suite's order; accuracies as shares, None and the reason where a task is missing."""
    scores = {score.task: score for score in result.scores}
    missing = {task.task: task for task in result.missing}
    rows = []
    for name, task in result.suite.tasks.items():
        expected = [result.expected(name, column) for column in result.columns]
        if name in scores:
            score = scores[name]
            rows.append((name, task.group, score.accuracy, *expected, score.num_test, score.num_train, score.note))
        else:
            rows.append((name, task.group, None, *expected, None, None, f"missing: {missing[name].why}"))
    return rows
