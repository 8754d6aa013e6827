"""From a bundle to a prepared model, and the check that it is worth as much as the one it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from vitrail.configuration import to_dict
from vitrail.data.batches import normalize
from vitrail.engines import trials
from vitrail.engines.base import Prepared
from vitrail.engines.config import MAX_LOSS, InferenceConfig, Precision
from vitrail.engines.registry import ENGINES, installed_engines
from vitrail.errors import ConfigError, VitrailError
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
        loss: accuracy lost, as a share; None without labels. Below 0 where it gained.
        pictures: how many.
    """

    cosine: float
    agreement: float
    loss: float | None
    pictures: int


@dataclass(frozen=True)
class Candidate:
    """One engine and precision that was tried, with milliseconds a picture, or the reason why it was left out."""

    engine: str
    precision: Precision
    milliseconds: float | None = None
    check: Check | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Choice:
    """The fastest of those that pass, and all that were tried."""

    prepared: Prepared
    config: InferenceConfig
    candidates: tuple[Candidate, ...]

    def describe(self) -> list[str]:
        """A line for each candidate, the chosen one marked."""
        lines = []
        for candidate in self.candidates:
            is_chosen = (candidate.engine, candidate.precision) == (self.config.engine, self.config.precision)
            what = candidate.refused or f"{candidate.milliseconds:.1f} ms a picture"
            lines.append(f"{'*' if is_chosen else ' '} {candidate.engine} {candidate.precision}: {what}")
        return lines


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
    engine = ENGINES[config.engine]
    obstacle = engine.missing()
    if obstacle is not None:
        raise ConfigError(f"engine '{config.engine}': {obstacle}")
    if config.precision not in engine.precisions:
        known = ", ".join(engine.precisions)
        raise ConfigError(f"engine '{config.engine}' has no precision '{config.precision}', only {known}")
    prepared = engine.prepare(bundle, config, calibration)
    if labelled is not None:
        require_accuracy(check(prepared, bundle, config, labelled.images, labelled.labels), config, max_loss)
    return prepared


def check(
    prepared: Prepared, bundle: Bundle, config: InferenceConfig, images: Tensor, labels: Tensor | None = None
) -> Check:
    """Compare its answers with those of the bundle's model in float32.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) classes; None, or with "features": no accuracy is measured.
    """
    wanted, got = [], []
    model, preprocessing = bundle.model, bundle.config.preprocessing
    with torch.inference_mode():
        for part in images.split(_BATCH):
            inputs = normalize(part, preprocessing)
            if config.answer == "features":
                wanted.append(model.forward_head(model.forward_features(inputs), pre_logits=True))
            else:
                wanted.append(model(inputs))
            got.append(prepared(part))
    own, answers = torch.cat(wanted).float(), torch.cat(got)
    loss = None
    if labels is not None and config.answer == "logits":
        right = [float((rows.argmax(1) == labels).double().mean()) for rows in (own, answers)]
        loss = right[0] - right[1]
    cosines = torch.cosine_similarity(own, answers)
    cosines[(own == answers).all(1)] = 1.0  # a fresh head answers 0, which has no direction
    cosine = float(cosines.mean())
    return Check(cosine, float((own.argmax(1) == answers.argmax(1)).double().mean()), loss, len(images))


def require_accuracy(check: Check, config: InferenceConfig, max_loss: float) -> None:
    """Raises ConfigError where more accuracy was lost than allowed."""
    if check.loss is not None and check.loss > max_loss:
        raise ConfigError(
            f"{config.engine} in {config.precision} loses {100 * check.loss:.2f} points of accuracy on"
            f" {check.pictures} labelled pictures, more than the {100 * max_loss:.2f} allowed: choose another"
            " precision, calibrate on more of your own pictures, or allow more with max_loss"
        )


def choose_engine(
    bundle: Bundle,
    config: InferenceConfig | None = None,
    *,
    calibration: Tensor | None = None,
    labelled: Labelled | None = None,
    max_loss: float = MAX_LOSS,
    precisions: tuple[Precision, ...] = get_args(Precision),
) -> Choice:
    """Try every installed engine in every precision, and take the fastest of those that keep the accuracy.

    Which one that is for models of this architecture is remembered for each machine: the next time that one alone is
    prepared, and the others only where it loses too much accuracy with these weights.

    Args:
        config: what the model is prepared for; its engine and precision are what is chosen here.
        calibration: without it int8 is not tried.
        labelled: without it the accuracy is not measured, and int8 is not tried either: nothing would tell.
    Raises:
        ConfigError: nothing passes; every reason is said.
    """
    config = config or InferenceConfig()
    may_be_int8 = calibration is not None and labelled is not None
    wanted = [
        replace(config, engine=name, precision=precision)
        for name in installed_engines()
        for precision in precisions
        if precision in ENGINES[name].precisions
    ]
    facts = {
        "tried": [[tried.engine, tried.precision] for tried in wanted if may_be_int8 or tried.precision != "int8"],
        "architecture": to_dict(bundle.config.model),
        "for": to_dict(config),
    }
    past = trials.recall("engine", facts)
    first = [tried for tried in wanted if past and [tried.engine, tried.precision] == past.get("choice")]
    for among in (first, wanted):
        found = [_try(bundle, tried, calibration, labelled, max_loss) for tried in among]
        passed = [item for item in found if item[1] is not None]
        if passed:
            _, prepared, tried = min(passed, key=lambda item: item[0].milliseconds or 0.0)
            assert prepared is not None
            trials.keep("engine", facts, {"choice": [tried.engine, tried.precision]})
            return Choice(prepared, tried, tuple(item[0] for item in found))
    raise ConfigError(
        "no engine passes: " + "; ".join(f"{item.engine} {item.precision}: {item.refused}" for item, _, _ in found)
    )


def _try(
    bundle: Bundle,
    config: InferenceConfig,
    calibration: Tensor | None,
    labelled: Labelled | None,
    max_loss: float,
) -> tuple[Candidate, Prepared | None, InferenceConfig]:
    """A candidate with its speed, and what was prepared; None where it was left out."""
    name, precision = config.engine, config.precision
    if precision == "int8" and (calibration is None or labelled is None):
        refused = "not tried: it needs pictures to calibrate on and labelled ones to be checked on"
        return Candidate(name, precision, refused=refused), None, config
    result = None
    try:
        prepared = prepare(bundle, config, calibration=calibration)
        if labelled is not None:
            result = check(prepared, bundle, config, labelled.images, labelled.labels)
            require_accuracy(result, config, max_loss)
    except VitrailError as error:
        return Candidate(name, precision, check=result, refused=str(error)), None, config
    example = torch.zeros(config.batch_size, *prepared.image_shape, dtype=torch.uint8)
    seconds = trials.time_in_turns({"it": partial(prepared, example)})["it"]
    return Candidate(name, precision, 1000 * seconds / len(example), result), prepared, config
