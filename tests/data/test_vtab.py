from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitrail.data import vtab
from vitrail.data.config import Augmentation, DataConfig, Preprocessing
from vitrail.data.sources import open_source
from vitrail.data.sources.base import ArraySource
from vitrail.data.sources.published import READERS
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.data.vtab import EXPECTED_MEANS, NUM_TRAIN, NUM_VALIDATION, VTAB
from vitrail.data.vtab_cut import cut
from vitrail.errors import DataError
from vitrail.models.config import ViTConfig
from vitrail.recipes import RECIPES, Situation, StartingWeights


def test_there_are_19_tasks_in_groups_of_7_4_and_8() -> None:
    assert Counter(task.group for task in VTAB.values()) == {"natural": 7, "specialized": 4, "structured": 8}


def test_the_mean_of_the_expected_column_is_the_printed_one() -> None:
    for column, mean in enumerate(EXPECTED_MEANS):
        assert sum(task.expected[column] for task in VTAB.values()) / 19 == pytest.approx(mean, abs=0.051)


@pytest.mark.parametrize("name", VTAB)
def test_every_task_is_read_by_its_name_and_has_1000_pictures(name: str) -> None:
    task = VTAB[name]
    assert name in READERS
    assert task.num_train_and_validation >= NUM_TRAIN + NUM_VALIDATION
    assert task.num_classes > 1


def made_up(counts: dict[int, int], num_classes: int = 10) -> ArraySource:
    """So many pictures in each split, with labels in turn."""
    splits = np.repeat(list(counts), list(counts.values())).astype(np.int8)
    labels = np.arange(len(splits)) % num_classes
    classes = tuple(map(str, range(num_classes)))
    return ArraySource("made-up", "made-up", np.zeros((len(splits), 1, 1), np.uint8), classes, labels, splits)


def counted(source: ArraySource, name: str) -> tuple[int, ...]:
    splits = cut(source, VTAB[name])
    return tuple(int((splits == split).sum()) for split in (TRAIN, VALIDATION, TEST))


def test_800_train_200_validate_and_the_publishers_whole_test_split_is_scored() -> None:
    source = made_up({TRAIN: 5000, VALIDATION: 600, TEST: 700})
    assert counted(source, "dtd") == (800, 200, 700)
    splits = cut(source, VTAB["dtd"])
    assert ((splits == TEST) == (source.splits == TEST)).all()
    assert (source.splits[splits == VALIDATION] == VALIDATION).all()
    assert (source.splits[splits == TRAIN] == TRAIN).all()


def test_without_validation_pictures_of_the_publisher_the_200_are_training_pictures() -> None:
    source = made_up({TRAIN: 5000, TEST: 700})
    for name in ("cifar100", "sun397"):  # the latter with the publisher's own lists
        assert counted(source, name) == (800, 200, 700)


def test_the_200_of_smallnorb_come_from_one_half_of_the_test_split_and_the_other_is_scored() -> None:
    source = made_up({TRAIN: 2000, TEST: 1001})
    assert counted(source, "smallnorb-azimuth") == (800, 200, 501)
    assert (source.splits[cut(source, VTAB["smallnorb-azimuth"]) == VALIDATION] == TEST).all()


def test_what_nobody_divided_is_divided_as_the_benchmark_does() -> None:
    assert counted(made_up({UNASSIGNED: 27_000}), "eurosat") == (800, 200, 5400)
    caltech = made_up({UNASSIGNED: 9144}, 102)
    assert counted(caltech, "caltech101") == (800, 200, 6084)


def test_which_pictures_are_taken_hangs_on_their_names_and_the_seed_alone() -> None:
    large = made_up({TRAIN: 3000, TEST: 10})
    fewer = replace(large, pixels=large.pixels[1:], labels=large.labels[1:], splits=large.splits[1:])
    assert (cut(large, VTAB["svhn"]) == cut(large, VTAB["svhn"])).all()
    assert (cut(large, VTAB["svhn"]) != cut(large, VTAB["svhn"], seed=1)).any()
    taken = {large.key(int(index)) for index in np.flatnonzero(cut(large, VTAB["svhn"]) == TRAIN)}
    others = {fewer.key(int(index)) for index in np.flatnonzero(cut(fewer, VTAB["svhn"]) == TRAIN)}
    assert len(taken & others) >= 799


def test_fewer_than_1000_pictures_are_cut_in_the_same_proportion() -> None:
    assert counted(made_up({TRAIN: 50, TEST: 7}), "svhn") == (40, 10, 7)


def test_training_leaves_a_picture_alone_where_varying_it_would_change_its_label() -> None:
    start = StartingWeights("x", ViTConfig(), Preprocessing())

    def augmentation(name: str) -> Augmentation:
        return RECIPES["finetune_vtab"](Situation(DataConfig(f"vtab:{name}:folder"), start=start)).augmentation

    assert (augmentation("pets").crop, augmentation("pets").flip_rate) == ("window", 0.5)
    place = augmentation("dsprites-location")
    assert (place.crop, place.flip_rate) == ("evaluation", 0.0)
    assert augmentation("smallnorb-azimuth").flip_rate == 0.0
    assert augmentation("kitti-distance").crop == "evaluation"


def test_an_unknown_task_is_refused_with_the_nearest_and_a_missing_one_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no task 'cifar10'\. Did you mean 'cifar100'"):
        open_source("vtab:cifar10")
    with pytest.raises(DataError, match=r"toronto\.edu"):
        open_source(f"vtab:cifar100:{tmp_path / 'nowhere'}")


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
