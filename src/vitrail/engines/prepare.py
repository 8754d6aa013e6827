"""From a bundle to a prepared model, and the check that it is worth as much as the one it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.data.batches import normalize
from vitrail.engines.base import Engine, Prepared
from vitrail.engines.config import MAX_LOSS, MAX_OFF, Answer, EngineName, InferenceConfig, Precision
from vitrail.engines.registry import ENGINES
from vitrail.errors import ConfigError
from vitrail.weights.bundle import Bundle

_BATCH = 16


@dataclass(frozen=True)
class Labelled:
    """Pictures with their classes, to measure accuracy on.

    Attributes:
        images: (N, C, H, W) uint8, as the evaluation transform makes them.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.images) or len(self.images) != len(self.labels):
            raise ConfigError(f"{len(self.images)} pictures and {len(self.labels)} labels: give one label a picture")


@dataclass(frozen=True)
class Check:
    """What an engine's answers are worth beside the model's own in float32, on the same pictures.

    Attributes:
        cosine: the mean over the pictures of the cosine between the two rows of logits or features.
        agreement: share of pictures with the same most probable class.
        off: the greatest distance of a row from the model's own, as a share of that one's length.
        pictures: how many.
        accuracy, own_accuracy: as shares, the engine's and the model's own; None without labels.
    """

    cosine: float
    agreement: float
    off: float
    pictures: int
    accuracy: float | None = None
    own_accuracy: float | None = None

    @property
    def loss(self) -> float | None:
        """Accuracy lost, as a share; below 0 where it gained. None without labels."""
        if self.accuracy is None or self.own_accuracy is None:
            return None
        return self.own_accuracy - self.accuracy


def prepare(
    bundle: Bundle,
    config: InferenceConfig | None = None,
    *,
    calibration: Tensor | None = None,
    labelled: Labelled | None = None,
    max_loss: float = MAX_LOSS,
) -> Prepared:
    """The bundle's model, prepared by one engine in one precision.

    Args:
        calibration: for int8, a few dozen to 256 of the user's own pictures, (N, C, H, W) uint8.
        labelled: pictures on which the accuracy is compared with the model's own.
        max_loss: of it, as a share; what loses more is refused.
    Raises:
        ConfigError: an engine that is not installed, what it cannot do, or more accuracy lost than allowed.
    """
    config = config or InferenceConfig()
    prepared = require_engine(config.engine, config.precision).prepare(bundle, config, calibration)
    if labelled is not None and config.answer == "logits":
        own = own_answers(bundle, labelled.images)
        require_accuracy(check(prepared, labelled.images, own, labelled.labels), config, max_loss)
    return prepared


def require_engine(name: EngineName, precision: Precision) -> Engine:
    """The engine of that name. Raises ConfigError where it is not installed or has no such precision."""
    engine = ENGINES[name]
    obstacle = engine.missing()
    if obstacle is not None:
        raise ConfigError(f"engine '{name}': {obstacle}")
    if precision not in engine.precisions:
        raise ConfigError(f"engine '{name}' has no precision '{precision}', only {', '.join(engine.precisions)}")
    return engine


@torch.inference_mode()
def own_answers(bundle: Bundle, images: Tensor, answer: Answer = "logits") -> Tensor:
    """What the model itself gives in float32 for (N, C, H, W) uint8: (N, K) logits or features."""
    model = bundle.model
    rows = []
    for part in images.split(_BATCH):
        inputs = normalize(part, bundle.config.preprocessing)
        if answer == "features":
            rows.append(model.forward_head(model.forward_features(inputs), pre_logits=True))
        else:
            rows.append(model(inputs))
    return torch.cat(rows).float()


def check(prepared: Prepared, images: Tensor, own: Tensor, labels: Tensor | None = None) -> Check:
    """Compare its answers with those of the model itself.

    Args:
        images: (N, C, H, W) uint8.
        own: (N, K), see `own_answers`.
        labels: (N,) classes, where the answers are logits; None: no accuracy is measured.
    """
    answers = torch.cat([prepared(part) for part in images.split(_BATCH)])
    accuracy, own_accuracy = None, None
    if labels is not None:
        accuracy, own_accuracy = (float((rows.argmax(1) == labels).double().mean()) for rows in (answers, own))
    cosines = torch.cosine_similarity(own, answers)
    cosines[(own == answers).all(1)] = 1.0  # a fresh head answers 0, which has no direction
    off = (answers - own).norm(dim=1) / own.norm(dim=1).clamp_min(1e-12)
    return Check(
        cosine=float(cosines.mean()),
        agreement=float((own.argmax(1) == answers.argmax(1)).double().mean()),
        off=float(off.max()),
        pictures=len(images),
        accuracy=accuracy,
        own_accuracy=own_accuracy,
    )


def require_accuracy(check: Check, config: InferenceConfig, max_loss: float) -> None:
    """Raises ConfigError where more accuracy was lost than allowed."""
    if check.loss is not None and check.loss > max_loss:
        raise ConfigError(
            f"{config.engine} in {config.precision} loses {100 * check.loss:.2f} points of accuracy on"
            f" {check.pictures:,} labelled pictures, more than the {100 * max_loss:.2f} allowed: choose another"
            " precision, calibrate on more of your own pictures, or allow more with max_loss"
        )


def require_near(check: Check, config: InferenceConfig) -> None:
    """Raises ConfigError where a row is further off than `MAX_OFF`, or no number."""
    if not check.off <= MAX_OFF:
        raise ConfigError(
            f"{config.engine} in {config.precision} is off by {100 * check.off:.2g} % of a row's length on"
            f" {check.pictures:,} pictures, and {100 * MAX_OFF:g} % are allowed: choose another precision or engine"
        )
