"""The floor that a model has to beat, and what a resumed run remembers of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from vitrail.data.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import RunError
from vitrail.tasks.floor import floor_from_json, measure_floor
from vitrail.tasks.prepare import PreparedData, prepare_data, read_data_record, reopen_data, write_data_record
from vitrail.training.events import Events


@pytest.fixture(scope="module")
def digits() -> PreparedData:
    return prepare_data(open_source("digits"), DataConfig(source="digits"), Events())


def test_the_floor_of_digits_is_a_linear_model_of_their_pixels(digits: PreparedData) -> None:
    floor = measure_floor(digits)
    majority, ridge = floor.models
    assert majority.name.startswith("always '")
    assert majority.test_accuracy == np.mean(majority.test_predictions == digits.labels(TEST))
    pixels = np.stack([digits.source.open(index).pixels(num_channels=1).ravel() for index in range(len(digits.source))])
    outside = RidgeClassifier(alpha=10).fit(pixels[digits.indices(TRAIN)], digits.labels(TRAIN))
    expected = outside.score(pixels[digits.indices(TEST)], digits.labels(TEST))
    assert ridge.test_accuracy == pytest.approx(expected, abs=0.03)


def test_the_floor_never_learns_from_validation_or_test_labels(digits: PreparedData) -> None:
    before = measure_floor(digits).best
    labels = digits.source.labels
    kept = labels.copy()
    try:
        held_out = digits.splits != TRAIN
        labels[held_out] = (labels[held_out] + 1) % 10
        after = measure_floor(digits).models
    finally:
        labels[:] = kept
    ridge = next(model for model in after if model.name == before.name)
    assert np.array_equal(before.test_predictions, ridge.test_predictions)


def test_a_run_remembers_its_pictures_and_its_floor(digits: PreparedData, tmp_path: Path) -> None:
    floor = measure_floor(digits)
    write_data_record(tmp_path, digits, floor.to_json(digits))
    record = read_data_record(tmp_path)
    again = reopen_data(DataConfig(source="digits"), record, tmp_path)
    assert np.array_equal(again.splits, digits.splits)
    restored = floor_from_json(record["floor"], again)
    for before, after in zip(floor.models, restored.models, strict=True):
        assert (before.name, before.validation_accuracy) == (after.name, after.validation_accuracy)
        order = np.argsort(after.test_indices)
        assert np.array_equal(np.sort(before.test_indices), after.test_indices[order])
        assert np.array_equal(before.test_predictions[np.argsort(before.test_indices)], after.test_predictions[order])


def test_a_run_whose_pictures_are_gone_cannot_go_on(digits: PreparedData, tmp_path: Path) -> None:
    write_data_record(tmp_path, digits, [])
    record = json.loads((tmp_path / "data.json").read_text())
    record["splits"]["train"].append("digits/99999")
    with pytest.raises(RunError, match=r"1 pictures of the run are gone, the first is 'digits/99999'"):
        reopen_data(DataConfig(source="digits"), record, tmp_path)


def test_a_run_with_other_classes_cannot_go_on(digits: PreparedData, tmp_path: Path) -> None:
    write_data_record(tmp_path, digits, [])
    record = json.loads((tmp_path / "data.json").read_text())
    record["labels"][0] = "zero"
    with pytest.raises(RunError, match=r"new: 0; gone: zero"):
        reopen_data(DataConfig(source="digits"), record, tmp_path)


def test_every_picture_is_in_exactly_one_split(digits: PreparedData) -> None:
    counts = [len(digits.indices(split)) for split in (TRAIN, VALIDATION, TEST)]
    assert sum(counts) == len(digits.source)
    assert min(counts) > 0
