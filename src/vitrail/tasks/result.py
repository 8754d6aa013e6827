"""What a finished run came to: evaluated once on the test split, compared with the floor, carried away as a bundle."""

from __future__ import annotations

import csv
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.split import SPLIT_NAMES, TEST, TRAIN
from vitrail.errors import RunError
from vitrail.evaluators.calibration import fit_temperature
from vitrail.evaluators.comparison import Comparison, compare
from vitrail.evaluators.evaluation import Evaluation, evaluate
from vitrail.models.build import Model
from vitrail.storage import write_file
from vitrail.tasks.floor import FROZEN_FEATURES, Floor, FloorModel
from vitrail.tasks.inference import Answers, ask
from vitrail.tasks.prepare import PreparedData
from vitrail.tasks.run import Run
from vitrail.tasks.starting import read_start
from vitrail.tasks.tried_rates import Sweep, read_sweep
from vitrail.training.config import TrainConfig
from vitrail.weights.bundle import BundleConfig, Sample, save_bundle

PREDICTIONS_FILE = "predictions.csv"
NUM_SAMPLES = 4  # pictures in the bundle
_LONGER = "train longer, with --minutes of `vitrail fit` or --schedule.epochs of `vitrail train`"


@dataclass(frozen=True)
class RunResult:
    """A finished run: what its report is made of."""

    folder: Path
    config: TrainConfig
    prepared: PreparedData
    floor: Floor
    command: str  # that made the run
    recipe_reason: str  # why this recipe; empty where the user named it
    best_step: int  # whose weights were kept
    best_validation: Mapping[str, float]  # empty where there are no validation pictures
    evaluation: Evaluation  # of the best weights, on the test split
    comparison: Comparison  # with the best floor, picture by picture
    test: Answers
    sweep: Sweep | None  # that chose the learning rate
    num_parameters: int
    durations: Mapping[str, float]  # phase -> seconds

    @property
    def beats_floor(self) -> bool:
        return self.comparison.verdict == "beat"

    def kept(self) -> str:
        """Which weights were kept, and where their temperature is from."""
        if self.sweep is None and self.best_validation:
            return "The weights with the best validation accuracy were kept."
        average = ", averaged," if self.config.averaging.rate is not None else ""
        last = f"The weights{average} after the last update were kept: no other step was looked at."
        if self.best_validation:
            return last
        num_train = len(self.prepared.indices(TRAIN))
        everything = f" All {num_train:,} training pictures were learnt from, so none was left to calibrate the"
        if self.sweep is None:
            return f"{last}{everything} probabilities on: they are as the model gives them."
        return f"{last}{everything} probabilities on; that was done with the best run of the sweep on what it held out."

    def advice(self) -> tuple[str, ...]:
        """What would help most, where the model is not clearly above the floor."""
        if self.beats_floor:
            return ()
        num_train = len(self.prepared.indices(TRAIN))
        advice = [f"add pictures, of the smallest classes first: {num_train:,} is few"] if num_train < 10_000 else []
        if self.config.weights is None and max(self.config.preprocessing.image_size) > 48:
            advice.append("start from a model that has seen many pictures, with --weights BUNDLE")
        advice += ["look for pictures in the wrong class, with `vitrail check`", _LONGER]
        return tuple(advice)

    def describe(self) -> tuple[str, ...]:
        """What a person reads when the command ends."""
        evaluation, best = self.evaluation, self.floor.best
        low, high = evaluation.accuracy_interval
        verdict = {
            "beat": f"clearly above the floor of {100 * best.test_accuracy:.1f} % ({best.name})",
            "no clear difference": f"NOT clearly above the floor of {100 * best.test_accuracy:.1f} % ({best.name})",
            "did not beat": f"BELOW the floor of {100 * best.test_accuracy:.1f} % ({best.name})",
        }[self.comparison.verdict]
        lines = [
            f"{100 * evaluation.accuracy:.1f} % of {evaluation.num_pictures:,} untouched test pictures are named right"
            f" (95 % interval {100 * low:.0f} to {100 * high:.0f} %), {verdict}."
        ]
        if self.sweep is not None:
            lines.append(self.sweep.describe())
        if not self.beats_floor:
            lines.append(did_not_pay(best.name, self.config.weights, self.config.data.source))
            lines += ["What would help:", *(f"  - {x}" for x in self.advice())]
        lines.append(f"Report: {self.folder / 'report.html'}")
        lines.append(f"Next:   vitrail predict {self.folder} PICTURES")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "recipe": self.config.recipe,
            "test_accuracy": self.evaluation.accuracy,
            "test_accuracy_interval_95": list(self.evaluation.accuracy_interval),
            "floor": self.floor.best.name,
            "floor_test_accuracy": self.floor.best.test_accuracy,
            "verdict": self.comparison.verdict,
            "validation_accuracy": self.best_validation.get("accuracy"),
            "sweep": None if self.sweep is None else self.sweep.to_json(),
            "best_step": self.best_step,
            "num_parameters": self.num_parameters,
            "seconds": {name: round(seconds, 3) for name, seconds in self.durations.items()},
            "evaluation": self.evaluation.to_json(),
        }


def did_not_pay(floor: str, weights: str | None, data: str) -> str:
    """What is said of a run that is not clearly above its best floor, named `floor`."""
    if weights is None or floor != FROZEN_FEATURES:
        return "Training did not pay on this data."
    return (
        "Fine-tuning was not worth it on this data: a linear model on the frozen features of the starting weights is at"
        f" least about as good, and costs no training. `vitrail probe {weights} {data}` measures that."
    )


def compare_with(floor: FloorModel, answers: Answers) -> Comparison:
    """The model against a floor, on the test pictures that both have an answer for."""
    _, ours, theirs = np.intersect1d(answers.indices, floor.test_indices, return_indices=True)
    labels = answers.labels[ours]
    return compare(answers.values[ours].argmax(axis=1) == labels, floor.test_predictions[theirs] == labels)


def finish(
    run: Run, folder: Path, floor: Floor, durations: Mapping[str, float], command: str, recipe_reason: str = ""
) -> RunResult:
    """Evaluate the kept weights on the test split, this once, and write bundle/ and predictions.csv.

    The temperature that calibrates them is fitted on the validation pictures; without any it is that of the sweep's
    best run on what was held out from it, or none.

    Raises:
        RunError: there are no finite weights, no test picture can be read, or the folder cannot be written.
    """
    model, best, sweep = run.best_model(), run.kept, read_sweep(folder)
    answers, evaluation = _evaluate_test(model, run, _temperature(model, run, sweep))
    result = RunResult(
        folder=folder,
        config=run.config,
        prepared=run.prepared,
        floor=floor,
        command=command,
        recipe_reason=recipe_reason,
        best_step=best.step,
        best_validation=best.metrics,
        evaluation=evaluation,
        comparison=compare_with(floor.best, answers),
        test=answers,
        sweep=sweep,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        durations=durations,
    )
    try:
        _save_bundle(result, model)
        _write_predictions(folder / PREDICTIONS_FILE, result)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written to ({error.strerror}); make room, then finish with:"
            f" vitrail fit --resume {folder}"
        ) from error
    return result


def _temperature(model: Model, run: Run, sweep: Sweep | None) -> float:
    if run.has_validation:
        validation = ask(model, run.validation, run.config.preprocessing)
        return fit_temperature(validation.labels, validation.values)
    return 1.0 if sweep is None else sweep.chosen.temperature or 1.0


def _evaluate_test(model: Model, run: Run, temperature: float) -> tuple[Answers, Evaluation]:
    """In float32, as `predict` computes."""
    answers = ask(
        model,
        run.evaluation_loader(TEST),
        run.config.preprocessing,
        temperature=temperature,
        progress=lambda done, total: run.events.progress("evaluating", done, total),
    )
    for _, message in answers.broken:
        run.events.warning(f"left out of the test: {message}")
    if not len(answers.labels):
        raise RunError("no test picture can be read any more")
    classes = run.prepared.source.classes
    return answers, evaluate(answers.labels, classes, probabilities=answers.probabilities, split="test")


def _save_bundle(result: RunResult, model: Model) -> None:
    source, config = result.prepared.source, result.config
    low, high = result.evaluation.accuracy_interval
    save_bundle(
        result.folder / "bundle",
        model,
        BundleConfig(
            model=config.model,
            labels=source.classes,
            preprocessing=config.preprocessing,
            name=source.name,
            temperature=result.test.temperature,
            licence=(read_start(result.folder) or {}).get("licence"),
            provenance={
                "data": source.name,  # not its path: a bundle is passed on
                "data_fingerprint": result.prepared.fingerprint,
                "pictures": {SPLIT_NAMES[split]: len(result.prepared.indices(split)) for split in (0, 1, 2)},
                "recipe": config.recipe,
                "starting_weights": _starting_weights(result.folder),
                "best_step": result.best_step,
                **({} if result.sweep is None else result.sweep.provenance()),
                "versions": {name: importlib.metadata.version(name) for name in ("vitrail", "torch")},
            },
            metrics={
                "test_accuracy": result.evaluation.accuracy,
                "test_accuracy_interval_95": [low, high],
                "test_balanced_accuracy": result.evaluation.balanced_accuracy,
                **{f"validation_{name}": value for name, value in result.best_validation.items() if name == "accuracy"},
                "floor": result.floor.best.name,
                "floor_test_accuracy": result.floor.best.test_accuracy,
            },
        ),
        _samples(result.prepared, result.test),
    )


def _starting_weights(folder: Path) -> dict[str, Any] | None:
    record = read_start(folder)
    # The whole certificate stays in the run's folder; what a reader of the card needs to know goes with the bundle.
    return None if record is None else {name: value for name, value in record.items() if name != "certificate"}


def _samples(prepared: PreparedData, answers: Answers) -> list[Sample]:
    """A few test pictures, of different classes where there are enough."""
    _, first = np.unique(answers.labels, return_index=True)
    rows = dict.fromkeys([*np.sort(first).tolist(), *range(len(answers.labels))])
    samples: list[Sample] = []
    for row in list(rows)[:NUM_SAMPLES]:
        index = int(answers.indices[row])
        samples.append((prepared.source.key(index), prepared.source.open(index).pixels()))
    return samples


def _write_predictions(path: Path, result: RunResult) -> None:
    """predictions.csv: file, label, prediction, then a probability for each class."""
    source, answers = result.prepared.source, result.test
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "label", "prediction", *source.classes])
    for index, label, row in zip(answers.indices.tolist(), answers.labels.tolist(), answers.probabilities, strict=True):
        names = (source.key(index), source.classes[label], source.classes[int(row.argmax())])
        writer.writerow([*names, *(f"{probability:.6f}" for probability in row.tolist())])
    write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))
