"""The floors that a trained model has to beat: the most frequent class, and a ridge classifier in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-1, 6, 15))
# Bounds on time: the eigendecomposition of side min(rows, features) takes about 1 s at 1,300 and 3 s at 2,048 on one
# core, and grows with the cube.
MAX_ROWS = 4096
MAX_SIDE = 2048


def majority_class(labels: np.ndarray, num_classes: int) -> int:
    """The class with the most of the (N,) labels; of equal ones the first."""
    if len(labels) == 0:
        raise ValueError("no labels: there is no most frequent class")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, outside 0 to {num_classes - 1}")
    return int(np.bincount(labels, minlength=num_classes).argmax())


@dataclass(frozen=True)
class Ridge:
    """A linear classifier by least squares; see fit_ridge."""

    classes: np.ndarray  # (C,) the classes that had rows to learn from, ascending
    mean: np.ndarray  # (D,) of the features
    scale: np.ndarray  # (D,) their standard deviation; 1 for a constant feature
    coefficients: np.ndarray  # (D, C) on standardised features
    intercept: np.ndarray  # (C,)
    penalty: float
    num_rows: int  # rows fitted
    num_rows_given: int  # rows offered; more than num_rows where they were sub-sampled

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features -> (N, C) float64 scores near 1 for the class and -1 for the others; no probabilities."""
        scores: np.ndarray = (features - self.mean) / self.scale @ self.coefficients + self.intercept
        return scores

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features -> (N,) class indices."""
        predicted: np.ndarray = self.classes[self.scores(features).argmax(axis=1)]
        return predicted


def fit_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    max_rows: int | None = None,
    seed: int = 0,
) -> Ridge:
    """Ridge regression on targets of 1 (the class) and -1 (the others), the penalty by exact leave-one-out.

    One eigendecomposition of side min(N, D) serves every penalty: a row left out has the residual e / (1 - h), where
    h is its leverage (Golub, Heath and Wahba 1979). Features are standardised, the intercept is not penalised.

    Args:
        features: (N, D) float.
        labels: (N,) int.
        penalties: tried in this order; the smallest mean squared leave-one-out residual wins.
        max_rows: above this, a random sample of so many rows is fitted in their place (Ridge.num_rows says so). None:
            MAX_ROWS, or MAX_SIDE where there are more features than that.
        seed: of that sample.
    """
    if features.ndim != 2 or len(features) != len(labels) or len(labels) < 2:
        raise ValueError(f"features of shape {features.shape} and {len(labels)} labels: two rows or more are needed")
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties {penalties} must be positive numbers, one at least")
    num_given = len(labels)
    if max_rows is None:
        max_rows = MAX_ROWS if features.shape[1] <= MAX_SIDE else MAX_SIDE
    if num_given > max_rows:
        rows = np.sort(np.random.default_rng(seed).choice(num_given, max_rows, replace=False))
        features, labels = features[rows], labels[rows]
    x = np.asarray(features, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("features hold values that are not finite")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    # A constant feature may keep a deviation of rounding size; dividing by it would blow noise up.
    scale = np.where(scale > 1e-9 * (np.abs(mean) + 1e-12), scale, 1.0)
    x = (x - mean) / scale
    classes, column = np.unique(labels, return_inverse=True)
    targets = np.where(column[:, None] == np.arange(len(classes)), 1.0, -1.0)
    intercept = targets.mean(axis=0)
    # One thread: on a machine whose cores are busy, the threads of the eigendecomposition wait for one another so long
    # that it takes up to forty times its time (measured); threadpoolctl comes with scikit-learn.
    with threadpool_limits(limits=1, user_api="blas"):
        penalty, coefficients = _solve(x, targets - intercept, penalties)
    return Ridge(classes, mean, scale, coefficients, intercept, penalty, len(labels), num_given)


def _solve(x: np.ndarray, y: np.ndarray, penalties: tuple[float, ...]) -> tuple[float, np.ndarray]:
    """The best penalty and its (D, C) coefficients for centred x (N, D) and y (N, C)."""
    left, variances, right = _decompose(x)
    projected = left.T @ y  # (R, C)
    leverages = left**2  # (N, R)
    best: tuple[float, float] | None = None
    for penalty in penalties:
        shrink = variances / (variances + penalty)
        residuals = y - left @ (shrink[:, None] * projected)
        # 1 / N is the leverage of the intercept.
        remaining = 1 - 1 / len(x) - leverages @ shrink
        error = float(np.square(residuals / np.maximum(remaining, 1e-12)[:, None]).mean())
        if best is None or error < best[0]:
            best = error, penalty
    assert best is not None
    weights = np.sqrt(variances) / (variances + best[1])
    return best[1], right @ (weights[:, None] * projected)


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x = left @ diag(sqrt(variances)) @ right.T with (N, R), (R,), (D, R), by the smaller of its two Gram matrices:
    many times faster than an SVD of x, and what it loses in the smallest directions the penalty hides."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > max(values[-1], 0.0) * 1e-12
    variances, vectors = values[kept], vectors[:, kept]
    other = (x.T if wide else x) @ vectors / np.sqrt(variances)
    return (vectors, variances, other) if wide else (other, variances, vectors)
