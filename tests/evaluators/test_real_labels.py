from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vitrail.evaluators.real_labels import NUM_PICTURES, check_real_labels, picture_number, real_score

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "imagenet-labels.tar.gz"
LABELS = [[1, 2], [], [3], [4]]


def test_a_prediction_is_right_if_it_is_among_the_labels_and_pictures_without_any_are_left_out() -> None:
    score = real_score(np.array([2, 7, 3, 9]), np.arange(4), LABELS)
    assert (score.num_pictures, score.num_correct, score.num_left_out) == (3, 2, 1)
    assert score.accuracy == pytest.approx(2 / 3)


def test_the_places_decide_and_not_the_order() -> None:
    score = real_score(np.array([4, 1]), np.array([3, 0]), LABELS)
    assert score.accuracy == 1


def test_a_class_that_imagenet_does_not_have_is_never_right() -> None:
    assert real_score(np.array([-1]), np.array([0]), LABELS).num_correct == 0


def test_nothing_to_score_is_not_zero() -> None:
    assert real_score(np.array([5]), np.array([1]), LABELS).to_json()["accuracy"] is None


@pytest.mark.parametrize(("predicted", "places"), [([1], [4]), ([1], [-1]), ([1, 1], [0, 0]), ([1], [0, 1])])
def test_places_that_cannot_be_are_refused(predicted: list[int], places: list[int]) -> None:
    with pytest.raises(ValueError):
        real_score(np.array(predicted), np.array(places), LABELS)


def test_the_number_in_a_files_name_counts_from_one() -> None:
    assert picture_number("ILSVRC2012_val_00000001.JPEG") == 0
    assert picture_number("val/n01440764/ILSVRC2012_val_00050000.JPEG") == 49_999
    for name in ("ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00050001.JPEG", "n01440764_10026.JPEG", "val_1.JPEG"):
        assert picture_number(name) is None


@pytest.mark.parametrize("value", [{}, [[1]], [[1000]] * NUM_PICTURES, [[True]] * NUM_PICTURES, [1] * NUM_PICTURES])
def test_another_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"lists of classes|not a list of classes"):
        check_real_labels(value)


def test_the_published_file_scores_46837_pictures() -> None:
    if not ARCHIVE.exists():
        pytest.skip("the archive of ImageNet's labels is not here")
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile("imagenet-labels/imagenet_real/real.json")
        assert file is not None
        labels = check_real_labels(json.load(file))
    counts = Counter(map(len, labels))
    assert [counts[number] for number in range(10)] == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert sum(map(len, labels)) == 57_553
    assert real_score(np.zeros(NUM_PICTURES, np.int64), np.arange(NUM_PICTURES), labels).num_pictures == 46_837
