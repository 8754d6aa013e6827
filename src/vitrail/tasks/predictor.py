"""One loaded classifier that answers pictures as they come: what `predict` and the server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.data.batches import normalize
from vitrail.data.config import ImageLimits
from vitrail.data.images import open_picture
from vitrail.data.sources.base import DEFAULT_LIMITS
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines.base import Prepared
from vitrail.models.build import Model
from vitrail.tasks.streams import Streams
from vitrail.weights.bundle import Bundle

NOT_FINITE = "what the model computes of it is no number: its weights, or their precision, cannot do this picture"

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One picture's answer; a picture that cannot be read has an `error` and no answer."""

    file: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()  # the most probable classes, most probable first
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "error": self.error,
        }


def probabilities_of(values: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """(N, K) logits -> softmax(logits / temperature); each row sums to 1, and depends on itself alone."""
    scaled = values.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def predictions_of(
    files: list[str], probabilities: npt.NDArray[np.float64], labels: tuple[str, ...], top_k: int
) -> list[Prediction]:
    """The `top_k` most probable classes of each row of (N, K); of equals the first. A row of nan is an error."""
    predictions = []
    for file, row in zip(files, probabilities, strict=True):
        if not np.isfinite(row).all():
            predictions.append(Prediction(file, error=f"{file}: {NOT_FINITE}"))
            continue
        order = np.argsort(-row, kind="stable")[:top_k]
        top = tuple((labels[place], float(row[place])) for place in order)
        predictions.append(Prediction(file, top[0][0], top[0][1], top))
    return predictions


Forward = Callable[[Tensor], Tensor]


def head_by_rows(model: Model) -> Forward:
    """The model, its head asked for one picture at a time: (B, C, H, W) normalised -> (B, K).

    A product of a few rows is rounded otherwise than one of many. Of what the head sees a picture has one row, so that
    an answer would depend in its last bits on how many others are asked for at once.
    """
    return lambda images: _by_rows(model.forward_head, model.forward_features(images))


def _logits_and_features(model: Model) -> Forward:
    """As `head_by_rows`, (B, K + D): the logits, and behind them what the head saw."""

    def forward(images: Tensor) -> Tensor:
        tokens = model.forward_features(images)
        features = _by_rows(lambda row: model.forward_head(row, pre_logits=True), tokens)
        return torch.cat([_by_rows(model.forward_head, tokens), features], dim=1)

    return forward


def _by_rows(head: Forward, tokens: Tensor) -> Tensor:
    return torch.cat([head(tokens[row : row + 1]) for row in range(len(tokens))])


def own_forward(model: Model, forward: Forward) -> Forward:
    """`forward` of the model itself: on the CPU by `Streams`, elsewhere as it is."""
    return Streams(model, forward) if next(model.parameters()).device.type == "cpu" else forward


class Predictor:
    """A classifier in memory. What it answers for a picture does not depend on which others it is asked with.

    Args:
        bundle: the classifier.
        prepared: an engine that gives the logits in place of the model.
        limits: of pictures, checked from their headers.
    """

    def __init__(self, bundle: Bundle, prepared: Prepared | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.bundle, self.prepared = bundle, prepared
        self._limits = limits
        self._transform = EvaluationTransform(bundle.config.preprocessing)
        self._device = next(bundle.model.parameters()).device
        self._logits = own_forward(bundle.model, head_by_rows(bundle.model))
        self._both = own_forward(bundle.model, _logits_and_features(bundle.model))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.config.labels

    def read(self, data: bytes, name: str) -> npt.NDArray[np.uint8]:
        """A picture's bytes as the model sees them: (C, H, W). Raises ImageError."""
        return np.asarray(self._transform(open_picture(data, name, self._limits)))

    def normalized(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """(B, C, H, W) bytes as the model's input, on its device."""
        return normalize(torch.from_numpy(images).to(self._device), self.bundle.config.preprocessing)

    def ask(self, images: npt.NDArray[np.uint8], *, with_features: bool = False) -> tuple[Rows, Rows | None]:
        """Logits (B, K) and, where asked for, what the head sees, (B, D), for (B, C, H, W) bytes."""
        logits, features = None, None
        with torch.inference_mode():
            if with_features:
                both = self._both(self.normalized(images)).float().cpu().numpy()
                logits, features = np.split(both, [len(self.labels)], axis=1)
            if self.prepared is not None:
                logits = self.prepared(torch.from_numpy(images)).numpy()
            elif logits is None:
                logits = self._logits(self.normalized(images)).float().cpu().numpy()
        return logits, features

    def predict(self, files: list[str], logits: Rows, top_k: int) -> list[Prediction]:
        """The answers for rows of logits."""
        probabilities = probabilities_of(logits, self.bundle.config.temperature)
        return predictions_of(files, probabilities, self.labels, top_k)
