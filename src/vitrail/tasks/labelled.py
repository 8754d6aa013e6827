"""Labelled pictures for a model that is trained already: classes matched by name, and a few of them in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.sources.base import Source, several
from vitrail.data.split import TEST, VALIDATION
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines.prepare import Labelled
from vitrail.errors import DataError
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle

MOST_CALIBRATION, MOST_MEASURED = 128, 2000  # pictures: more change neither a range nor an accuracy by what matters
_LEAST_MEASURED_SHARE = 0.8  # of pictures that are not divided: the others are calibrated on


@dataclass(frozen=True)
class MatchedClasses:
    """Labels of a data set as the model numbers them.

    Attributes:
        indices: (M,) those of the pictures asked for whose class the model knows.
        labels: (N,) of the whole source, in the model's label map; -1 where the model does not know the class.
        unknown: the classes that it does not know.
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class CheckPictures:
    """What an engine in 8-bit integers is made and judged with: no picture is in both.

    Attributes:
        calibration: (N, C, H, W) uint8, as the evaluation transform makes them.
    """

    calibration: Tensor
    labelled: Labelled


def match_classes(
    source: Source, indices: npt.NDArray[np.int64], known: tuple[str, ...], events: Events
) -> MatchedClasses:
    """Match classes by name, so that the data's own order and missing classes do not matter.

    Args:
        indices: (M,) into the source.
        known: the model's labels.
    Raises:
        DataError: the data and the model share no class.
    """
    numbers = {name: label for label, name in enumerate(known)}
    translation = np.array([numbers.get(name, -1) for name in source.classes], dtype=np.int64)
    labels = translation[source.labels]
    unknown = tuple(name for name in source.classes if name not in numbers)
    indices = indices[labels[indices] >= 0]
    if not len(indices):
        raise DataError(
            f"{source.spec}: none of its classes ({several(list(source.classes))}) is one that the model knows"
            f" ({several(list(known))}); classes are matched by their exact names"
        )
    if unknown:
        events.warning(f"left out, because the model does not know the class: {several(list(unknown))}")
    return MatchedClasses(indices, labels, unknown)


def read_check_pictures(spec: str, bundle: Bundle, events: Events) -> CheckPictures:
    """Up to 128 pictures to calibrate on and up to 2,000 to measure accuracy on, drawn at random, the same each time.

    The accuracy is measured on validation and test pictures where the data has them, and what is calibrated on is taken
    from the others; where there are no others, or no splits, a part is kept from measuring.

    Args:
        spec: as DataConfig.source.
    Raises:
        DataError: as `match_classes`, or too few pictures can be read.
    """
    source = open_source(spec, progress=events.download)
    matched = match_classes(source, np.arange(len(source)), bundle.config.labels, events)
    order = np.random.default_rng(0).permutation(matched.indices)
    is_held_out = np.isin(source.splits[order], (VALIDATION, TEST))
    measured, others = order[is_held_out], order[~is_held_out]
    if not len(measured) or not len(others):
        num_measured = round(_LEAST_MEASURED_SHARE * len(order))
        measured, others = order[:num_measured], order[num_measured:]
    calibration, _ = _read(source, others[:MOST_CALIBRATION], bundle, events)
    images, kept = _read(source, measured[:MOST_MEASURED], bundle, events)
    return CheckPictures(calibration, Labelled(images, torch.from_numpy(matched.labels[kept])))


def _read(
    source: Source, indices: npt.NDArray[np.int64], bundle: Bundle, events: Events
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Those pictures that can be read, (N, C, H, W) uint8, and which they are, (N,)."""
    images: list[Tensor] = []
    kept: list[npt.NDArray[np.int64]] = []
    if len(indices):
        loader = Loader(source, indices, EvaluationTransform(bundle.config.preprocessing), batch_size=32, seed=0)
        done = 0
        for batch in loader.once():
            for _, message in batch.broken:
                events.warning(f"left out: {message}")
            images.append(batch.images)
            kept.append(batch.indices.numpy())
            done += len(batch.indices) + len(batch.broken)
            events.progress("reading labelled pictures", done, len(indices))
    if not sum(map(len, kept)):
        raise DataError(
            f"{source.spec}: too few of its pictures can be read to calibrate on some and to measure on others;"
            " give a few hundred"
        )
    return torch.cat(images), np.concatenate(kept)
