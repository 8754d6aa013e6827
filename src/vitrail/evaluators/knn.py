"""Weighted nearest neighbours on frozen features, the protocol of DINO (Caron et al. 2021, section 4.1 and code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_NEIGHBOURS = (10, 20, 100, 200)  # 20 is best most often
TEMPERATURE = 0.07
MAX_CELLS = 2**24  # similarities, or votes, held at a time: 64 MB


@dataclass(frozen=True)
class Neighbours:
    """The vote of the k nearest."""

    k: int
    predictions: np.ndarray  # (N, up to 5) int64: classes with the most votes first

    def accuracy(self, labels: np.ndarray, top: int = 1) -> float:
        """Share of the (N,) labels that are among the first `top` (at most 5) predictions; nan without pictures."""
        if not len(labels):
            return float("nan")
        return float((self.predictions[:, :top] == labels[:, None]).any(axis=1).mean())


def nearest_neighbours(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    *,
    ks: Sequence[int] = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> list[Neighbours]:
    """Classes of `test` rows by the votes of their most similar `train` rows; exp(similarity / temperature) each.

    Args:
        train: (M, D) float. labels: (M,) int in [0, num_classes). test: (N, D) float.
        ks: numbers of neighbours; none above M.
    Returns:
        One for each of `ks`.
    """
    if not ks or min(ks) < 1 or max(ks) > len(train):
        raise ValueError(f"ks {list(ks)} must be numbers from 1 to the {len(train)} rows there are")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} is not positive")
    reference = _normalized(train).T
    block = max(1, MAX_CELLS // max(len(train), num_classes))
    first = min(5, num_classes)
    found: list[list[np.ndarray]] = [[] for _ in ks]
    for start in range(0, len(test), block):
        similarity = _normalized(test[start : start + block]) @ reference
        nearest, near = _most_similar(similarity, max(ks))
        votes = np.exp(near.astype(np.float64) / temperature)
        for k, answers in zip(ks, found, strict=True):
            summed = _sum_votes(votes[:, :k], labels[nearest[:, :k]], num_classes)
            answers.append(np.argsort(-summed, axis=1, kind="stable")[:, :first])
    empty = np.empty((0, first), np.int64)
    return [Neighbours(k, np.concatenate(answers) if answers else empty) for k, answers in zip(ks, found, strict=True)]


def _normalized(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite: the backbone or its preprocessing is broken")
    normalized: np.ndarray = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return normalized


def _most_similar(similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) -> indices and values (N, k), the most similar first, of equals the first."""
    if k < similarity.shape[1]:
        indices = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        indices.sort(axis=1)
    else:
        indices = np.broadcast_to(np.arange(k), (len(similarity), k))
    values = np.take_along_axis(similarity, indices, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(values, order, axis=1)


def _sum_votes(votes: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Votes and their classes, both (N, k) -> (N, num_classes)."""
    cells = classes + num_classes * np.arange(len(classes))[:, None]
    summed = np.bincount(cells.ravel(), weights=votes.ravel(), minlength=num_classes * len(classes))
    return summed.reshape(len(classes), num_classes)
