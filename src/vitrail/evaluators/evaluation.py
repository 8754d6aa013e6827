"""Everything that is said of the predictions on one split, as one dataclass. Assembles this folder's other files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.evaluators.accuracy import class_counts, confusions, top_k_accuracy, wilson_interval
from vitrail.evaluators.calibration import ReliabilityBins, brier_score, log_loss, reliability_bins


@dataclass(frozen=True)
class ClassScore:
    """One class; nan stands for what cannot be said, never for 0."""

    name: str
    support: int  # pictures of the class in the split
    predicted: int  # pictures called that class
    correct: int  # both
    precision: float  # nan: the class was never predicted
    recall: float  # nan: the split has no pictures of it
    f1: float  # nan: the split has no pictures of it


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities can be taken at their word."""

    expected_calibration_error: float  # over the bins below
    log_loss: float  # nats
    brier_score: float  # 0 to 2
    mean_confidence: float  # of the predictions; above the accuracy: overconfident
    bins: ReliabilityBins


@dataclass(frozen=True)
class Evaluation:
    """What the predictions on one split are worth."""

    split: str
    classes: tuple[str, ...]
    num_pictures: int
    num_correct: int
    accuracy: float  # nan without pictures, as every share here
    accuracy_interval: tuple[float, float]  # Wilson, 95 %
    top_5_accuracy: float | None  # None with 5 classes or fewer, or without probabilities
    balanced_accuracy: float  # mean recall of the classes that have pictures
    per_class: tuple[ClassScore, ...]  # in the order of classes
    confusions: tuple[tuple[int, int, int], ...]  # (label, prediction, count) of the mistakes, most frequent first
    calibration: Calibration | None  # None where only predictions are known

    @property
    def classes_without_pictures(self) -> tuple[str, ...]:
        return tuple(score.name for score in self.per_class if score.support == 0)

    def confusion_matrix(self) -> np.ndarray:
        """(K, K) int64: rows are the true classes, columns the predicted ones."""
        matrix = np.diag(np.array([score.correct for score in self.per_class], dtype=np.int64))
        for label, prediction, count in self.confusions:
            matrix[label, prediction] = count
        return matrix

    def to_json(self) -> dict[str, Any]:
        """JSON values; null where a figure cannot be had."""
        calibration = self.calibration
        return {
            "split": self.split,
            "num_pictures": self.num_pictures,
            "num_correct": self.num_correct,
            "accuracy": _json(self.accuracy),
            "accuracy_interval_95": [round(bound, 6) for bound in self.accuracy_interval],
            "top_5_accuracy": None if self.top_5_accuracy is None else _json(self.top_5_accuracy),
            "balanced_accuracy": _json(self.balanced_accuracy),
            "classes_without_pictures": list(self.classes_without_pictures),
            "per_class": [
                {
                    "class": score.name,
                    "pictures": score.support,
                    "predicted": score.predicted,
                    "correct": score.correct,
                    "precision": _json(score.precision),
                    "recall": _json(score.recall),
                    "f1": _json(score.f1),
                }
                for score in self.per_class
            ],
            "confusions": [
                {"class": self.classes[label], "predicted": self.classes[prediction], "pictures": count}
                for label, prediction, count in self.confusions
            ],
            "calibration": None if calibration is None else _calibration_json(calibration),
        }


def evaluate(
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    probabilities: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    split: str = "test",
) -> Evaluation:
    """Evaluate predictions on one split.

    Args:
        labels: (N,) int in [0, K). N may be 0.
        classes: the K names.
        probabilities: (N, K) in [0, 1]; or else
        predicted: (N,) int, where a classifier gives no probabilities: the calibration is then None.
        split: its name.
    Raises:
        ValueError: shapes that do not fit, labels outside [0, K), probabilities outside [0, 1].
    """
    num_classes = len(classes)
    if (probabilities is None) == (predicted is None):
        raise ValueError("evaluate needs either probabilities or predicted")
    if probabilities is not None:
        if probabilities.shape != (len(labels), num_classes):
            raise ValueError(
                f"probabilities of {probabilities.shape} do not fit {len(labels)} labels, {num_classes} classes"
            )
        # `not all` also catches nan, which compares as false.
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("probabilities hold values that are not between 0 and 1")
        predicted = probabilities.argmax(axis=1)
    assert predicted is not None
    counts = class_counts(labels, predicted, num_classes)
    num, num_correct = len(labels), int(counts.correct.sum())
    columns = (counts.support, counts.predicted, counts.correct, counts.precision, counts.recall, counts.f1)
    rows = zip(classes, *(column.tolist() for column in columns))
    has_top_5 = probabilities is not None and num_classes > 5
    return Evaluation(
        split=split,
        classes=tuple(classes),
        num_pictures=num,
        num_correct=num_correct,
        accuracy=num_correct / num if num else math.nan,
        accuracy_interval=wilson_interval(num_correct, num),
        top_5_accuracy=top_k_accuracy(labels, probabilities, 5) if has_top_5 and probabilities is not None else None,
        balanced_accuracy=counts.balanced_accuracy,
        per_class=tuple(ClassScore(*row) for row in rows),
        confusions=tuple((a, b, n) for a, b, n in confusions(labels, predicted, num_classes).tolist()),
        calibration=None if probabilities is None else _calibration(labels, probabilities),
    )


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    bins = reliability_bins(labels, probabilities)
    return Calibration(
        expected_calibration_error=bins.expected_calibration_error,
        log_loss=log_loss(labels, probabilities),
        brier_score=brier_score(labels, probabilities),
        mean_confidence=float(probabilities.max(axis=1).mean()) if len(labels) else math.nan,
        bins=bins,
    )


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    bins = calibration.bins
    return {
        "expected_calibration_error": _json(calibration.expected_calibration_error),
        "num_bins": len(bins.counts),
        "log_loss": _json(calibration.log_loss),
        "brier_score": _json(calibration.brier_score),
        "mean_confidence": _json(calibration.mean_confidence),
        "bins": [
            {
                "above": round(low, 6),
                "up_to": round(high, 6),
                "pictures": count,
                "confidence": _json(confidence),
                "accuracy": _json(accuracy),
            }
            for low, high, count, confidence, accuracy in zip(
                bins.edges[:-1].tolist(),
                bins.edges[1:].tolist(),
                bins.counts.tolist(),
                bins.confidence.tolist(),
                bins.accuracy.tolist(),
            )
        ],
    }


def _json(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
