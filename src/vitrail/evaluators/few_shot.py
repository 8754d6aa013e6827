"""Few-shot classification of frozen features by least squares, in closed form.

The problem is that of Dosovitskiy et al. 2021 (section 4.1) as big_vision's evaluator `fewshot_lsr` solves it: features
standardised over the few-shot set, a constant feature for the bias, targets of -1 and 1, ridge regression.

Everything is computed in float64: the Gram matrix of 10,000 rows in float32 is wrong in the 5th digit, which the
smallest penalties amplify, and the decomposition is the same second or less either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

PENALTY = 1024.0  # 2^10, as big_vision
PENALTIES = tuple(2.0**power for power in range(-10, 20))  # the grid of earlier evaluators, 2^-10 to 2^19
CONSTANT = 100.0  # the bias's feature: large, so that the penalty on its coefficient hardly counts
BLOCK = 4096  # rows worked on at a time

Form = Literal["features", "rows"]  # whose Gram matrix is decomposed


@dataclass(frozen=True)
class FewShot:
    """A linear classifier; see `fit_few_shot`."""

    mean: np.ndarray  # (D,) of the features
    scale: np.ndarray  # (D,) their biased standard deviation + 1e-5
    weights: np.ndarray  # (D + 1, K) on standardised features and, last, the constant one
    penalty: float
    shots: int
    num_rows: int  # fitted: fewer than shots * K where classes have fewer

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features -> (N, K) float64: near 1 for the class, near -1 for the others; no probabilities."""
        scores: np.ndarray = (features - self.mean) / self.scale @ self.weights[:-1] + CONSTANT * self.weights[-1]
        return scores

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features -> (N,) int64 classes; a block of rows at a time."""
        starts = range(0, len(features), BLOCK)
        parts = [self.scores(features[start : start + BLOCK]).argmax(axis=1) for start in starts]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def draw_shots(labels: np.ndarray, num_classes: int, shots: Sequence[int], seed: int) -> list[np.ndarray]:
    """The rows of each few-shot set: those of fewer shots are among those of more.

    For each class in order, one random permutation of its rows; the first ones are taken, all of them where a class
    has fewer than wanted.

    Args:
        labels: (N,) int in [0, num_classes).
        shots: rows a class of each set.
        seed: of numpy's default_rng.
    Returns:
        For each of `shots`, (M,) rows of `labels`, class by class.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f"shots {list(shots)}: one number or more is needed, each at least 1")
    generator = np.random.default_rng(seed)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])
    permuted = [generator.permutation(rows) for rows in by_class]
    return [np.concatenate([rows[:number] for rows in permuted]) for number in shots]


def fit_few_shots(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    seed: int = 0,
    penalties: Sequence[float] = (PENALTY,),
) -> list[FewShot]:
    """A classifier for each number of shots, their sets nested and their sums shared.

    Args:
        features: (N, D) float; a memory map will do.
        labels: (N,) int in [0, num_classes).
        shots, seed: as `draw_shots`.
        penalties: as `fit_few_shot`.
    """
    sets = draw_shots(labels, num_classes, shots, seed)
    sums: _Sums | None = None
    fitted: dict[int, FewShot] = {}
    for number in sorted(set(shots)):
        rows = sets[list(shots).index(number)]
        before = fitted.get(len(rows))  # no class had more: the same rows
        if before is not None:
            fitted[-number] = FewShot(before.mean, before.scale, before.weights, before.penalty, number, len(rows))
            continue
        if len(rows) < features.shape[1] + 1:
            one = _fit_by_rows(features[rows], labels[rows], num_classes, penalties, number)
        else:
            if sums is None:
                sums = _Sums.empty(features[rows[:BLOCK]].mean(axis=0, dtype=np.float64), num_classes)
            sums.add(features, labels, np.setdiff1d(rows, sums.rows))
            one = _fit_by_features(sums, penalties, number)
        fitted[len(rows)] = fitted[-number] = one
    return [fitted[-number] for number in shots]


def fit_few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    penalties: Sequence[float] = (PENALTY,),
    form: Form | None = None,
    shots: int = 0,
) -> FewShot:
    """Fit all rows given. With X (N, D + 1) and Y (N, K): W = (X'X + penalty)^-1 X'Y = X' (XX' + penalty)^-1 Y.

    Of several penalties the one with the smallest generalised cross-validation error is taken: the squared error of
    leaving rows out one by one with every row's leverage replaced by their mean (Golub, Heath and Wahba 1979). It
    looks at the few-shot set alone, and one decomposition gives it for every penalty.

    Args:
        features: (N, D) float. labels: (N,) int in [0, num_classes). penalties: positive.
        form: the Gram matrix to decompose; None: of the features where N > D, else of the rows.
        shots: what `FewShot.shots` says.
    """
    if form is None:
        form = "features" if len(features) > features.shape[1] else "rows"
    if form == "rows":
        return _fit_by_rows(features, labels, num_classes, penalties, shots)
    sums = _Sums.empty(features[:BLOCK].mean(axis=0, dtype=np.float64), num_classes)
    sums.add(features, labels, np.arange(len(features)))
    return _fit_by_features(sums, penalties, shots)


@dataclass
class _Sums:
    """What the Gram matrix of the features is made of; grows with the few-shot set."""

    shift: np.ndarray  # (D,) taken from every row first, so that nothing large cancels later
    products: np.ndarray  # (D, D) sum of outer products
    by_class: np.ndarray  # (K, D) sum of rows
    counts: np.ndarray  # (K,) rows
    rows: np.ndarray  # those that are in

    @classmethod
    def empty(cls, shift: np.ndarray, num_classes: int) -> _Sums:
        dim = len(shift)
        return cls(
            shift, np.zeros((dim, dim)), np.zeros((num_classes, dim)), np.zeros(num_classes), np.empty(0, np.int64)
        )

    def add(self, features: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
        for start in range(0, len(rows), BLOCK):
            chosen = rows[start : start + BLOCK]
            x = features[chosen] - self.shift
            _require_finite(x)
            self.products += x.T @ x
            self.by_class += _sum_by_class(x, labels[chosen], len(self.counts))
        self.counts += np.bincount(labels[rows], minlength=len(self.counts))
        self.rows = np.concatenate([self.rows, rows])


def _fit_by_features(sums: _Sums, penalties: Sequence[float], shots: int) -> FewShot:
    num = len(sums.rows)
    mean = sums.by_class.sum(axis=0) / num
    covariance = sums.products / num - np.outer(mean, mean)
    scale = np.sqrt(np.maximum(covariance.diagonal(), 0)) + 1e-5
    # Targets are -1 but for the class, and standardised features sum to zero: X'Y is twice the sum of each class.
    projected = 2 * (sums.by_class - sums.counts[:, None] * mean).T / scale[:, None]
    variances, vectors = _decompose(num * covariance / np.outer(scale, scale))
    along = vectors.T @ projected  # (R, K)
    penalty = _choose(variances, np.square(along).sum(axis=1) / variances, sums.counts, penalties)
    weights = vectors @ (along / (variances + penalty)[:, None])
    return _few_shot(sums.shift + mean, scale, weights, sums.counts, penalty, shots)


def _fit_by_rows(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalties: Sequence[float], shots: int
) -> FewShot:
    x = np.asarray(features, dtype=np.float64)
    _require_finite(x)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    x = (x - mean) / scale
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    variances, vectors = _decompose(x @ x.T)
    along = 2 * _sum_by_class(vectors, labels, num_classes).T - vectors.sum(axis=0)[:, None]  # (R, K) = vectors' Y
    penalty = _choose(variances, np.square(along).sum(axis=1), counts, penalties)
    weights = x.T @ (vectors @ (along / (variances + penalty)[:, None]))
    return _few_shot(mean, scale, weights, counts, penalty, shots)


def _few_shot(
    mean: np.ndarray, scale: np.ndarray, weights: np.ndarray, counts: np.ndarray, penalty: float, shots: int
) -> FewShot:
    """Add the constant feature: it is orthogonal to the standardised ones, so its coefficient stands by itself."""
    num = counts.sum()
    bias = CONSTANT * (2 * counts - num) / (CONSTANT**2 * num + penalty)
    return FewShot(mean, scale, np.concatenate([weights, bias[None]]), penalty, shots, int(num))


def _decompose(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive eigenvalues (R,) and their vectors (side, R)."""
    # One thread: on a machine whose cores are busy the threads of the decomposition wait for one another.
    with threadpool_limits(limits=1, user_api="blas"):
        values, vectors = np.linalg.eigh(gram)
    kept = values > max(values[-1], 0.0) * 1e-12
    return values[kept], vectors[:, kept]


def _choose(variances: np.ndarray, energies: np.ndarray, counts: np.ndarray, penalties: Sequence[float]) -> float:
    """The penalty with the smallest generalised cross-validation error.

    Args:
        variances: (R,) eigenvalues. energies: (R,) squared length of the targets along each direction. counts: (K,).
    """
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties {list(penalties)} must be positive numbers, one at least")
    if len(penalties) == 1:
        return float(penalties[0])
    num = counts.sum()
    variances = np.append(variances, CONSTANT**2 * num)
    energies = np.append(energies, np.square(2 * counts - num).sum() / num)
    outside = max(num * len(counts) - energies.sum(), 0.0)  # of the targets, which no penalty reaches
    best: tuple[float, float] | None = None
    for penalty in penalties:
        left = penalty / (variances + penalty)
        freedom = num - len(variances) + left.sum()
        error = (outside + (left**2 * energies).sum()) / freedom**2
        if best is None or error < best[0]:
            best = error, float(penalty)
    assert best is not None
    return best[1]


def _sum_by_class(rows: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, D) -> (num_classes, D)."""
    num = len(labels)
    summed: np.ndarray = csr_matrix((np.ones(num), (labels, np.arange(num))), shape=(num_classes, num)) @ rows
    return summed


def _require_finite(features: np.ndarray) -> None:
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite: the backbone or its preprocessing is broken")
