"""The honest floor: what needs no training. A model that does not beat it has learnt nothing worth keeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.evaluators.ridge import MAX_ROWS, fit_ridge, majority_class
from vitrail.tasks.features import extract_features
from vitrail.tasks.prepare import PreparedData, hold_out
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle

# Above this many classes a ridge on shrunken pixels is at chance, and its targets would fill the memory.
MAX_RIDGE_CLASSES = 2000
FROZEN_FEATURES = "ridge on frozen features"  # the floor's name where a run starts from weights
MAX_EVALUATED = 20_000  # pictures of the validation and of the test split
HELD_OUT_SHARE = 0.1  # of the training pictures, to rank the floors by where there are no validation pictures
# split -> (indices into the source, (N, D) features in the same order)
Features = dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class FloorModel:
    name: str  # "always 'pants'", "ridge on pixels"
    validation_accuracy: float
    test_accuracy: float
    test_indices: npt.NDArray[np.int64]  # (N,) into the source
    test_predictions: npt.NDArray[np.int64]  # (N,) labels


@dataclass(frozen=True)
class Floor:
    """The floors, the weakest on the validation split first: the last one is what a model has to beat."""

    models: tuple[FloorModel, ...]

    @property
    def best(self) -> FloorModel:
        return self.models[-1]

    def describe(self) -> str:
        """ "always 'pants' 16.2 %, ridge on pixels 30.1 %", on the validation split."""
        return ", ".join(f"{model.name} {100 * model.validation_accuracy:.1f} %" for model in self.models)

    def to_json(self, prepared: PreparedData) -> list[dict[str, Any]]:
        source = prepared.source
        return [
            {
                "name": model.name,
                "validation_accuracy": model.validation_accuracy,
                "test_accuracy": model.test_accuracy,
                "test_predictions": {
                    source.key(index): source.classes[label]
                    for index, label in zip(model.test_indices.tolist(), model.test_predictions.tolist(), strict=True)
                },
            }
            for model in self.models
        ]


def floor_from_json(record: list[dict[str, Any]], prepared: PreparedData) -> Floor:
    """What `to_json` wrote, against a source that holds the same pictures."""
    source = prepared.source
    positions = {source.key(index): index for index in prepared.indices(TEST).tolist()}
    labels = {name: label for label, name in enumerate(source.classes)}
    models = []
    for entry in record:
        predictions = entry["test_predictions"]
        models.append(
            FloorModel(
                entry["name"],
                entry["validation_accuracy"],
                entry["test_accuracy"],
                np.array([positions[key] for key in predictions], dtype=np.int64),
                np.array([labels[name] for name in predictions.values()], dtype=np.int64),
            )
        )
    return Floor(tuple(models))


def measure_floor(
    prepared: PreparedData, bundle: Bundle | None = None, seed: int = 0, events: Events | None = None
) -> Floor:
    """Majority class and closed-form ridge, fitted on training pictures alone.

    The ridge sees 16x16 thumbnails of the pixels or, with a bundle, the frozen features before its head. At most
    `MAX_ROWS` training pictures and `MAX_EVALUATED` of each other split take part, chosen by the seed; with more than
    `MAX_RIDGE_CLASSES` classes there is no ridge. Without validation pictures it learns from all but HELD_OUT_SHARE.
    """
    if not len(prepared.indices(VALIDATION)):
        prepared = hold_out(prepared, HELD_OUT_SHARE, seed)
    source = prepared.source
    features = _pixels(prepared, seed) if bundle is None else _frozen_features(prepared, bundle, seed, events)
    majority = majority_class(prepared.labels(TRAIN), len(source.classes))

    def model(name: str, predict: Any) -> FloorModel:
        rows, test = features[TEST]
        predictions = predict(test)
        checked, validation = features[VALIDATION]
        return FloorModel(
            name,
            float((predict(validation) == source.labels[checked]).mean()),
            float((predictions == source.labels[rows]).mean()),
            rows,
            predictions,
        )

    models = [model(f"always '{source.classes[majority]}'", lambda x: np.full(len(x), majority, np.int64))]
    rows, train = features[TRAIN]
    if len(source.classes) <= MAX_RIDGE_CLASSES and len(np.unique(source.labels[rows])) > 1:
        ridge = fit_ridge(train, source.labels[rows], seed=seed)
        models.append(model("ridge on pixels" if bundle is None else FROZEN_FEATURES, ridge.predict))
    return Floor(tuple(sorted(models, key=lambda model: model.validation_accuracy)))


def _chosen(indices: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    if len(indices) <= limit:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, limit, replace=False))


def _pixels(prepared: PreparedData, seed: int) -> Features:
    report = prepared.report
    if report is None:
        raise ValueError("the floor on pixels needs the data check's thumbnails")
    features: Features = {}
    for split in (TRAIN, VALIDATION, TEST):
        # Of a very large data set only a part was examined and has thumbnails.
        seen = np.flatnonzero((prepared.splits == split) & report.examined)
        rows, pixels = report.thumbnails_of(_chosen(seen, MAX_ROWS if split == TRAIN else MAX_EVALUATED, seed))
        features[split] = (rows, pixels.reshape(len(rows), -1).astype(np.float32) / np.float32(255))
    return features


def _frozen_features(prepared: PreparedData, bundle: Bundle, seed: int, events: Events | None) -> Features:
    """From the cache that `vitrail probe` fills, too, where it looked at the same pictures."""
    features: Features = {}
    for split in (TRAIN, VALIDATION, TEST):
        rows = _chosen(prepared.indices(split), MAX_ROWS if split == TRAIN else MAX_EVALUATED, seed)
        found = extract_features(bundle, prepared, rows, events or Events())
        features[split] = (found.indices, found.values)
    return features
