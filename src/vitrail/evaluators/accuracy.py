"""How often predictions are right: over all pictures, class by class, and how sure the figure itself is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # standard normal quantile of 0.975: two-sided 95 %


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """Share of pictures whose label is among the `k` classes with the highest probability.

    Args:
        labels: (N,) int.
        probabilities: (N, K); of equal ones the class with the lower index counts as the higher.
        k: 1 to K.
    Returns:
        A share in [0, 1]; nan without pictures.
    """
    if not 1 <= k <= probabilities.shape[1]:
        raise ValueError(f"k {k} is not between 1 and the number of classes {probabilities.shape[1]}")
    if len(labels) == 0:
        return math.nan
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    is_before = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & is_before)).sum(axis=1)
    return float((rank < k).mean())


@dataclass(frozen=True)
class ClassCounts:
    """Counts of each class, each (K,) int64: all that precision, recall and F1 are made of."""

    support: np.ndarray  # pictures of the class
    predicted: np.ndarray  # pictures called that class
    correct: np.ndarray  # both

    @property
    def precision(self) -> np.ndarray:
        """(K,) share of the pictures called the class that are of it; nan for a class that was never predicted."""
        return _share(self.correct, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """(K,) share of the pictures of the class that were found; nan for a class without pictures."""
        return _share(self.correct, self.support)

    @property
    def f1(self) -> np.ndarray:
        """(K,) harmonic mean of precision and recall; nan for a class without pictures."""
        f1 = _share(2 * self.correct, self.support + self.predicted)
        return np.where(self.support > 0, f1, math.nan)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have pictures; nan where none has."""
        recall = self.recall[self.support > 0]
        return float(recall.mean()) if len(recall) else math.nan


def class_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> ClassCounts:
    """Count each class in `labels` and `predicted`, both (N,) int in [0, num_classes)."""
    check_labels(labels, num_classes, "labels")
    check_labels(predicted, num_classes, "predicted")
    if len(labels) != len(predicted):
        raise ValueError(f"{len(labels)} labels do not fit {len(predicted)} predictions")

    def count(values: np.ndarray) -> np.ndarray:
        return np.bincount(values, minlength=num_classes).astype(np.int64)

    return ClassCounts(count(labels), count(predicted), count(labels[labels == predicted]))


def confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The mistakes as (M, 3) int64 rows (label, prediction, count), the most frequent first.

    Sparse, so that 100,000 classes need no matrix of 10^10 cells.
    """
    wrong = labels != predicted
    pairs, counts = np.unique(labels[wrong].astype(np.int64) * num_classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return np.stack([pairs // num_classes, pairs % num_classes, counts], axis=1)[order].astype(np.int64)


def wilson_interval(num_correct: int, num: int, z: float = Z_95) -> tuple[float, float]:
    """Score interval for a share of `num_correct` in `num` (Wilson 1927); 95 % by default, (0, 1) without pictures.

    Unlike the textbook's normal interval it stays inside [0, 1] and is honest for few pictures and for 0 or 100 %.
    """
    if not 0 <= num_correct <= num:
        raise ValueError(f"num_correct {num_correct} is not between 0 and num {num}")
    if num == 0:
        return 0.0, 1.0
    share = num_correct / num
    centre = share + z * z / (2 * num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    # At 0 and 100 % the bound is exact; rounding must not move it.
    low = 0.0 if num_correct == 0 else (centre - half) / scale
    high = 1.0 if num_correct == num else (centre + half) / scale
    return low, high


def check_labels(labels: np.ndarray, num_classes: int, name: str) -> None:
    """Refuse what is not a vector of class indices in [0, num_classes)."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be a vector of integers, not {labels.dtype} of shape {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"{name} has {labels.min()} to {labels.max()}, outside 0 to {num_classes - 1}")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share = np.full(len(whole), math.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
