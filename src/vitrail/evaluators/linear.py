"""The linear probe: logistic regression on frozen features by scikit-learn's L-BFGS, its strength chosen on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, the inverse of the penalty on standardised features
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class LinearProbe:
    """See `fit_linear`."""

    mean: np.ndarray  # (D,)
    scale: np.ndarray  # (D,) standard deviation + 1e-5
    model: LogisticRegression
    strength: float  # the C that was chosen
    validation_accuracy: float
    converged: bool  # the chosen one, within MAX_ITERATIONS

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features -> (N,) int64 classes; those without rows to learn from are never among them."""
        predicted: np.ndarray = self.model.predict((features - self.mean) / self.scale)
        return predicted


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    *,
    strengths: Sequence[float] = STRENGTHS,
    max_iterations: int = MAX_ITERATIONS,
) -> LinearProbe:
    """Fit on (N, D) features with (N,) labels of two classes or more; of equally good strengths the smallest is taken.

    From weak to strong, each starting where the one before ended: the same optimum in fewer iterations.
    """
    if not len(validation_labels):
        raise ValueError("no validation rows: there is nothing to choose the strength by")
    x = np.asarray(features, dtype=np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    x, checked = (x - mean) / scale, (validation_features - mean) / scale
    best: LinearProbe | None = None
    start: LogisticRegression | None = None
    for strength in sorted(strengths):
        model = LogisticRegression(C=strength, max_iter=max_iterations, warm_start=True)
        if start is not None:
            model.coef_, model.intercept_, model.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said by `converged`
            model.fit(x, labels)
        start = model
        accuracy = float((model.predict(checked) == validation_labels).mean())
        if best is None or accuracy > best.validation_accuracy:
            converged = bool(np.max(model.n_iter_) < max_iterations)
            best = LinearProbe(mean, scale, model, strength, accuracy, converged)
    if best is None:
        raise ValueError("strengths: one number or more is needed")
    return best
