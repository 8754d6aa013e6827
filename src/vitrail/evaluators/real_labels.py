"""ImageNet-ReaL: accuracy against the re-assessed labels of ImageNet's validation pictures (Beyer et al. 2020).

The published real.json holds, for each of the 50,000 pictures, the classes that people agreed it shows: none, one or
several. A prediction is right if it is among them; a picture without any is left out of the count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_PICTURES = 50_000
NUM_CLASSES = 1000
_FILE = re.compile(r"(?:.*/)?ILSVRC2012_val_(\d{8})(?:\.\w+)?")


@dataclass(frozen=True)
class RealScore:
    """What predictions are worth against ReaL."""

    num_pictures: int  # scored
    num_correct: int
    num_left_out: int  # predicted, but ReaL gives them no label
    accuracy: float  # nan without pictures

    def to_json(self) -> dict[str, Any]:
        return {
            "num_pictures": self.num_pictures,
            "num_correct": self.num_correct,
            "num_left_out": self.num_left_out,
            "accuracy": None if math.isnan(self.accuracy) else round(self.accuracy, 6),
        }


def check_real_labels(value: Any) -> list[list[int]]:
    """The content of a real.json, looked at: 50,000 lists of classes.

    Raises:
        ValueError: it is something else; says where.
    """
    if not isinstance(value, list) or len(value) != NUM_PICTURES:
        length = f"{len(value):,} entries" if isinstance(value, list) else f"a {type(value).__name__}"
        raise ValueError(f"expected a list of {NUM_PICTURES:,} lists of classes, found {length}")
    for place, classes in enumerate(value):
        if not isinstance(classes, list) or not all(
            type(label) is int and 0 <= label < NUM_CLASSES for label in classes
        ):
            raise ValueError(f"entry {place} is {classes!r}, not a list of classes from 0 to {NUM_CLASSES - 1}")
    return value


def picture_number(file: str) -> int | None:
    """The place in real.json of a picture, by its file's name: ILSVRC2012_val_00000001.JPEG has place 0.

    None for names of another kind, and for numbers outside 1 to 50,000.
    """
    match = _FILE.fullmatch(file)
    number = int(match.group(1)) if match else 0
    return number - 1 if 1 <= number <= NUM_PICTURES else None


def real_score(predicted: np.ndarray, places: np.ndarray, real_labels: Sequence[Sequence[int]]) -> RealScore:
    """Score the first prediction of each picture.

    Args:
        predicted: (N,) int classes in ImageNet's order; -1 for a class ImageNet does not have, which is never right.
        places: (N,) int places in `real_labels`, each picture once.
        real_labels: the classes of each picture; pictures with none are left out.
    Raises:
        ValueError: lengths that differ, a place outside the list, or a picture that is there twice.
    """
    if predicted.shape != places.shape or predicted.ndim != 1:
        raise ValueError(f"predicted of shape {predicted.shape} does not fit places of shape {places.shape}")
    if len(places) and not 0 <= places.min() <= places.max() < len(real_labels):
        raise ValueError(f"places {places.min()} to {places.max()} are outside 0 to {len(real_labels) - 1}")
    if len(np.unique(places)) != len(places):
        raise ValueError("a picture is there twice; each counts once")
    scored = [
        int(label) in real_labels[place]
        for label, place in zip(predicted.tolist(), places.tolist(), strict=True)
        if len(real_labels[place])
    ]
    num, num_correct = len(scored), sum(scored)
    return RealScore(
        num_pictures=num,
        num_correct=num_correct,
        num_left_out=len(places) - num,
        accuracy=num_correct / num if num else math.nan,
    )
