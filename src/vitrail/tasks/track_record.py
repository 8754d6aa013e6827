"""How often a model was right about test pictures that it was as sure of: what "87 %" has meant so far."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitrail.errors import WeightsError
from vitrail.evaluators.accuracy import wilson_interval
from vitrail.tasks.result import PREDICTIONS_FILE

ALIKE = 50  # test pictures that an answer is compared with


@dataclass(frozen=True)
class Record:
    """Of the test pictures that the model was about as sure of.

    Attributes:
        right, pictures: how many it named right, of how many.
        interval: 95 % of the share, Wilson's.
        sureness: the least and the greatest probability that it gave them.
    """

    right: int
    pictures: int
    interval: tuple[float, float]
    sureness: tuple[float, float]


@dataclass(frozen=True)
class TrackRecord:
    """The test pictures of a run: the model's probability for its answer, rising, and whether that was right. (N,)."""

    probabilities: npt.NDArray[np.float64]
    is_right: npt.NDArray[np.bool_]

    def of(self, probability: float) -> Record:
        """The `ALIKE` test pictures, or all where there are fewer, that are nearest in the model's own probability."""
        count = min(ALIKE, len(self.probabilities))
        distance = np.abs(self.probabilities - probability)
        chosen = np.sort(np.argsort(distance, kind="stable")[:count])
        right = int(self.is_right[chosen].sum())
        low, high = wilson_interval(right, count)
        return Record(
            right, count, (low, high), (float(self.probabilities[chosen[0]]), float(self.probabilities[chosen[-1]]))
        )


def read_track_record(model: str) -> TrackRecord | None:
    """Of the run that `model` names, or whose bundle it names; None where it names none.

    Raises:
        WeightsError: predictions.csv is not what a run writes.
    """
    place = Path(model)
    run = place.resolve().parent if place.name == "bundle" else place
    path = run / PREDICTIONS_FILE
    if not path.is_file() or not (run / "bundle").is_dir():
        return None
    sure, right = [], []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            classes = next(rows)[3:]
            for _, label, prediction, *shares in rows:
                sure.append(float(shares[classes.index(prediction)]))
                right.append(label == prediction)
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise WeightsError(
            f"{path}: damaged ({error!r}); write it again with: vitrail fit --resume {run}, or move it away"
        ) from error
    order = np.argsort(sure, kind="stable")
    return TrackRecord(np.array(sure)[order], np.array(right, dtype=bool)[order]) if sure else None
