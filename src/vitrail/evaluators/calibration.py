"""Whether probabilities can be taken at their word: reliability bins, ECE, log loss, Brier score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

NUM_BINS = 15  # equal width on [0, 1], as Guo et al. 2017, "On calibration of modern neural networks", section 2


@dataclass(frozen=True)
class ReliabilityBins:
    """Pictures by the confidence of their prediction: bin i holds the confidences in (edges[i], edges[i + 1]]."""

    edges: np.ndarray  # (B + 1,)
    counts: np.ndarray  # (B,) int64
    confidence: np.ndarray  # (B,) mean confidence; nan in an empty bin
    accuracy: np.ndarray  # (B,) share that is right; nan in an empty bin

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy, bins weighed by their pictures (Guo et al. 2017, equation 3)."""
        used = self.counts > 0
        if not used.any():
            return math.nan
        gaps = np.abs(self.accuracy[used] - self.confidence[used])
        return float((gaps * self.counts[used]).sum() / self.counts.sum())


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> ReliabilityBins:
    """Sort the predictions (the classes with the highest of (N, K) probabilities) into bins of equal width."""
    predicted = probabilities.argmax(axis=1)
    confidence = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0].astype(np.float64)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bins, minlength=num_bins).astype(np.int64)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(bins, weights=values, minlength=num_bins)
        means = np.full(num_bins, math.nan)
        np.divide(total, counts, out=means, where=counts > 0)
        return means

    return ReliabilityBins(edges, counts, mean(confidence), mean((predicted == labels).astype(np.float64)))


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature that gives softmax(logits / temperature) the smallest log loss (Guo et al. 2017, section 4.2).

    It changes no prediction, only how sure each one claims to be.

    Args:
        labels: (N,) int, of pictures that the weights have not seen.
        logits: (N, K) float.
    Returns:
        Between 0.05 and 20; 1 without pictures, or where every answer is right and no temperature is low enough.
    """
    if len(labels) == 0 or (logits.argmax(axis=1) == labels).all():
        return 1.0
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float((np.log(np.exp(shifted * scale).sum(axis=1)) - own * scale).mean())

    # The loss is convex in 1 / temperature, so it has one minimum in the logarithm too.
    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -ln p(label) over (N, K) probabilities, in nats; p is held at 2.2e-16 or above, where float64 ends.

    Without the bound one certain mistake would make the mean infinite and say nothing of the others.
    """
    if len(labels) == 0:
        return math.nan
    own = np.take_along_axis(probabilities, labels[:, None], axis=1).astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).eps)).mean())


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over pictures of the squared distance of (N, K) probabilities and the one-hot label: 0 to 2 (Brier 1950)."""
    if len(labels) == 0:
        return math.nan
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    return float((squares - 2 * own + 1).mean())
