from __future__ import annotations

from collections import Counter

import pytest

from vitrail.data import vtab
from vitrail.data.sources.published import READERS
from vitrail.data.vtab import EXPECTED_MEANS, NUM_TRAIN, NUM_VALIDATION, VTAB


def test_there_are_19_tasks_in_groups_of_7_4_and_8() -> None:
    assert Counter(task.group for task in VTAB.values()) == {"natural": 7, "specialized": 4, "structured": 8}


def test_the_mean_of_the_expected_column_is_the_printed_one() -> None:
    for column, mean in enumerate(EXPECTED_MEANS):
        assert sum(task.expected[column] for task in VTAB.values()) / 19 == pytest.approx(mean, abs=0.051)


@pytest.mark.parametrize("name", VTAB)
def test_800_and_200_pictures_are_there_and_do_not_overlap(name: str) -> None:
    task = VTAB[name]
    split, start, end = task.validation_slice
    assert end - start == NUM_VALIDATION
    assert task.num_train >= NUM_TRAIN
    if split == "train":  # the sizes include what the slice takes: the split is cut into both
        assert start >= NUM_TRAIN
        assert end <= task.num_train_and_validation
    assert task.address.startswith("http")
    assert task.layout
    assert task.num_classes > 1


def test_a_task_that_is_read_by_name_names_a_source() -> None:
    for task in VTAB.values():
        assert task.source is None or task.source in READERS, task.title


def test_clevr_counts_from_three_to_ten_objects() -> None:
    assert [vtab.clevr_count(number) for number in range(3, 11)] == list(range(8))
    with pytest.raises(ValueError, match="3 to 10"):
        vtab.clevr_count(2)


@pytest.mark.parametrize(
    ("depths", "label"),
    [([12.0, 7.9], 0), ([8.0], 0), ([8.01, 30.0], 1), ([8.5], 1), ([9.2], 3), ([9.9], 4), ([10.0], 4), ([10.1], 5)],
)
def test_clevr_distance_is_the_bin_of_the_nearest_object(depths: list[float], label: int) -> None:
    assert vtab.clevr_distance(depths) == label


def test_a_scene_without_objects_or_behind_the_camera_is_refused() -> None:
    with pytest.raises(ValueError, match="no objects"):
        vtab.clevr_distance([])
    with pytest.raises(ValueError, match="not above"):
        vtab.clevr_distance([0.0])


def test_dsprites_classes_are_two_places_and_two_and_a_half_orientations_wide() -> None:
    assert Counter(vtab.dsprites_location(place) for place in range(32)) == dict.fromkeys(range(16), 2)
    orientations = [vtab.dsprites_orientation(place) for place in range(40)]
    assert orientations[:10] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert set(orientations) == set(range(16))
    assert orientations == sorted(orientations)


def test_smallnorb_numbers_azimuths_in_twos_and_elevations_in_ones() -> None:
    assert [vtab.smallnorb_azimuth(number) for number in range(0, 36, 2)] == list(range(18))
    assert [vtab.smallnorb_elevation(number) for number in range(9)] == list(range(9))
    for wrong in (1, 36, -2):
        with pytest.raises(ValueError):
            vtab.smallnorb_azimuth(wrong)


@pytest.mark.parametrize(
    ("types", "depths", "label"),
    [
        (["Car", "Van"], [30.0, 7.5], 0),
        (["Truck"], [8.0], 0),
        (["Car", "Pedestrian"], [15.0, 2.0], 1),
        (["Van"], [20.1], 2),
        (["Pedestrian", "DontCare"], [3.0, -1000.0], 3),
        ([], [], 3),
    ],
)
def test_kitti_looks_at_cars_vans_and_trucks_alone(types: list[str], depths: list[float], label: int) -> None:
    assert vtab.kitti_distance(types, depths) == label


def test_a_label_outside_a_task_is_refused() -> None:
    for function, value in ((vtab.dsprites_location, 32), (vtab.smallnorb_elevation, 9), (vtab.dmlab, 6)):
        with pytest.raises(ValueError):
            function(value)
