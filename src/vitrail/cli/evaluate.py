"""`vitrail evaluate RUN PHOTOS`: how good a trained model is on other pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from vitrail.cli.output import percent, write_columns, write_json, write_line
from vitrail.cli.parsing import parse
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.evaluators.evaluation import Evaluation
    from vitrail.evaluators.real_labels import RealScore

MANY_CLASSES = 50  # above this, the table for people shows the hardest ones
NUM_CONFUSIONS = 5


@dataclass(frozen=True)
class Evaluate:
    """Accuracy, balanced accuracy, figures of each class, and whether the probabilities can be believed."""

    model: Positional[str]
    """A bundle, or the run folder around it."""
    photos: Positional[str]
    """Labelled pictures, as for `vitrail fit`."""
    split: Literal["auto", "all", "train", "validation", "test"] = "auto"
    """auto: the test split where the pictures are split, else all of them."""
    real: str | None = None
    """ImageNet-ReaL's real.json: score ImageNet's validation pictures by its labels, too."""
    json: bool = False
    """Everything as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Evaluate, arguments, prog="vitrail evaluate")
    from vitrail.tasks.evaluate import EvaluateConfig, evaluate_bundle
    from vitrail.training.events import Events

    with Events(Terminal()) as events:
        config = EvaluateConfig(model=command.model, data=command.photos, split=command.split, real_labels=command.real)
        result = evaluate_bundle(config, events)
    if command.json:
        write_json({"model": command.model, "data": command.photos, **result.to_json()})
    else:
        if result.real is not None:
            _tell_real(result.real)
        tell(result.evaluation)
    return 0


def _tell_real(real: RealScore) -> None:
    shown = percent(real.accuracy) if real.num_pictures else "no pictures"
    write_line(
        f"ReaL accuracy       {shown}  ({real.num_correct:,} of {real.num_pictures:,} pictures;"
        f" {real.num_left_out:,} without a ReaL label left out)"
    )


def tell(evaluation: Evaluation) -> None:
    """An evaluation for people, on stdout."""
    low, high = evaluation.accuracy_interval
    write_line(
        f"accuracy            {percent(evaluation.accuracy)}  ({evaluation.num_correct:,} of"
        f" {evaluation.num_pictures:,} pictures; 95 % interval {percent(low)} to {percent(high)})"
    )
    if evaluation.top_5_accuracy is not None:
        write_line(f"among the first 5   {percent(evaluation.top_5_accuracy)}")
    write_line(f"balanced accuracy   {percent(evaluation.balanced_accuracy)}")
    if evaluation.calibration is not None:
        calibration = evaluation.calibration
        write_line(
            f"calibration error   {percent(calibration.expected_calibration_error)}"
            f"  (mean confidence {percent(calibration.mean_confidence)})"
        )
    write_line()
    _tell_classes(evaluation)
    if evaluation.confusions:
        write_line()
        write_line("most frequent confusions")
        write_columns(
            [
                [f"{count:,}", f"{evaluation.classes[label]} called {evaluation.classes[prediction]}"]
                for label, prediction, count in evaluation.confusions[:NUM_CONFUSIONS]
            ],
            right=(0,),
        )


def _tell_classes(evaluation: Evaluation) -> None:
    scores = list(evaluation.per_class)
    is_cut = len(scores) > MANY_CLASSES
    if is_cut:
        seen = [score for score in scores if score.support > 0]
        scores = sorted(seen, key=lambda score: (score.recall, score.name))[:MANY_CLASSES]
    rows = [["class", "pictures", "precision", "recall", "F1"]]
    for score in scores:
        if score.support == 0:
            rows.append([score.name, "0", percent(score.precision), "no pictures", "no pictures"])
        else:
            figures = (score.precision, score.recall, score.f1)
            rows.append([score.name, f"{score.support:,}", *map(percent, figures)])
    write_columns(rows, right=(1, 2, 3, 4))
    if is_cut:
        write_line(
            f"(the {MANY_CLASSES} classes with the lowest recall of {len(evaluation.classes):,}; --json has all)"
        )
