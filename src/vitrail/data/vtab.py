"""The 19 tasks of VTAB-1k (Zhai et al. 2019) as a table, and the labels of its structured tasks as functions.

Sizes and labels are those of the benchmark's own code (google-research/task_adaptation); the expected scores those of
Dosovitskiy et al. 2021, table 9. Of each task 800 training and 200 validation pictures choose the settings, a last run
takes all 1000, and the whole test split is scored; `vtab_cut` says which pictures these are. The paper uses one set of
settings for all tasks: learning rate 0.01, 2500 steps, batch 512, 384 pixels. Keys are names of published data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Group = Literal["natural", "specialized", "structured"]

NUM_TRAIN, NUM_VALIDATION = 800, 200
IMAGE_SIZE = 384  # pixels, of every task (Dosovitskiy et al. 2021, appendix D.10)
METRIC = "accuracy"  # of every task, Retinopathy included; the score is the plain mean over the 19
CLEVR_DISTANCE_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCE_EDGES = (-100.0, 8.0, 20.0, 999.0)
KITTI_NO_VEHICLE = 1000.0  # metres: the distance of "nothing there"
KITTI_VEHICLES = ("Car", "Van", "Truck")


@dataclass(frozen=True)
class VtabTask:
    """One task. Sizes are pictures."""

    title: str
    group: Group
    num_classes: int
    num_train: int  # of the split that the 800 are taken from
    num_validation: int
    num_test: int
    validation_from: Literal["train", "validation", "test"]  # the publisher's split that the 200 are taken from
    expected: tuple[float, float, float]  # top-1 in %, of EXPECTED_MODELS
    train_per_class: int | None = None  # where the benchmark makes its training split class by class
    # What training may do to a picture without changing its label (Kolesnikov et al. 2020, on VTAB with BiT).
    may_flip: bool = True
    may_crop: bool = True

    @property
    def num_train_and_validation(self) -> int:
        return self.num_train + self.num_validation


EXPECTED_MODELS = ("ViT-H/14, JFT", "ViT-L/16, JFT", "ViT-L/16, ImageNet-21k")
EXPECTED_MEANS = (77.6, 76.3, 72.7)  # as printed under table 9

VTAB: dict[str, VtabTask] = {
    "caltech101": VtabTask(
        "Caltech101", "natural", 102, 2754, 306, 6084, "train", (95.3, 95.4, 90.8), train_per_class=30
    ),
    "cifar100": VtabTask("CIFAR-100", "natural", 100, 45000, 5000, 10000, "train", (85.5, 81.9, 84.1)),
    "dtd": VtabTask("DTD", "natural", 47, 1880, 1880, 1880, "validation", (75.2, 74.3, 74.1)),
    "flowers102": VtabTask("Flowers102", "natural", 102, 1020, 1020, 6149, "validation", (99.7, 99.7, 99.3)),
    "pets": VtabTask("Pets", "natural", 37, 2944, 736, 3669, "train", (97.2, 96.7, 92.7)),
    "sun397": VtabTask("Sun397", "natural", 397, 76128, 10875, 21750, "validation", (65.0, 63.5, 61.0)),
    "svhn": VtabTask("SVHN", "natural", 10, 65931, 7326, 26032, "train", (88.9, 87.4, 80.9)),
    "patch-camelyon": VtabTask("Camelyon", "specialized", 2, 262144, 32768, 32768, "validation", (83.3, 83.6, 82.5)),
    "eurosat": VtabTask("EuroSAT", "specialized", 10, 16200, 5400, 5400, "validation", (96.7, 96.5, 95.6)),
    "resisc45": VtabTask("Resisc45", "specialized", 45, 18900, 6300, 6300, "validation", (91.4, 89.7, 85.2)),
    "retinopathy": VtabTask("Retinopathy", "specialized", 5, 35126, 10906, 42670, "validation", (76.6, 77.1, 75.3)),
    "clevr-count": VtabTask(
        "Clevr-Count", "structured", 8, 63000, 7000, 15000, "train", (91.7, 86.4, 70.3), may_crop=False
    ),
    "clevr-distance": VtabTask(
        "Clevr-Dist", "structured", 6, 63000, 7000, 15000, "train", (63.8, 63.1, 56.1), may_crop=False
    ),
    "dmlab": VtabTask("DMLab", "structured", 6, 65550, 22628, 22735, "validation", (53.1, 49.7, 41.9), may_crop=False),
    "dsprites-location": VtabTask(
        "dSpr-Loc", "structured", 16, 589824, 73728, 73728, "train", (79.4, 74.5, 74.7), may_flip=False, may_crop=False
    ),
    "dsprites-orientation": VtabTask(
        "dSpr-Ori", "structured", 16, 589824, 73728, 73728, "train", (63.3, 60.5, 64.9), may_flip=False
    ),
    "kitti-distance": VtabTask(
        "KITTI-Dist", "structured", 4, 6347, 423, 711, "validation", (84.5, 82.2, 79.9), may_crop=False
    ),
    "smallnorb-azimuth": VtabTask(
        "sNORB-Azim", "structured", 18, 24300, 12150, 12150, "test", (33.2, 36.2, 30.5), may_flip=False
    ),
    "smallnorb-elevation": VtabTask("sNORB-Elev", "structured", 9, 24300, 12150, 12150, "test", (51.2, 51.1, 41.7)),
}


def clevr_count(num_objects: int) -> int:
    """0 to 7, for the 3 to 10 objects of a scene."""
    if not 3 <= num_objects <= 10:
        raise ValueError(f"a CLEVR scene has 3 to 10 objects, not {num_objects}")
    return num_objects - 3


def clevr_distance(depths: Sequence[float]) -> int:
    """0 to 5: the bin of the nearest object's depth, the third of its `pixel_coords`; the last edge below it counts."""
    if not len(depths):
        raise ValueError("the scene has no objects")
    if not min(depths) <= CLEVR_DISTANCE_EDGES[-1]:
        raise ValueError(f"the depth {min(depths)} is not up to {CLEVR_DISTANCE_EDGES[-1]:g}")
    return _bin(min(depths), CLEVR_DISTANCE_EDGES, "depth")


def dsprites_location(label_x_position: int) -> int:
    """0 to 15: 32 horizontal places, two to a class."""
    _check_range(label_x_position, 32, "the horizontal place")
    return label_x_position // 2


def dsprites_orientation(label_orientation: int) -> int:
    """0 to 15: 40 orientations, two and a half to a class."""
    _check_range(label_orientation, 40, "the orientation")
    return int(label_orientation // 2.5)


def smallnorb_azimuth(info_azimuth: int) -> int:
    """0 to 17: the files number the 18 azimuths 0, 2, ..., 34 (tens of degrees)."""
    _check_range(info_azimuth, 36, "the azimuth")
    if info_azimuth % 2:
        raise ValueError(f"the azimuth {info_azimuth} is odd; smallNORB has 0, 2, ..., 34")
    return info_azimuth // 2


def smallnorb_elevation(info_elevation: int) -> int:
    """0 to 8: nine elevations, 30 to 70 degrees in steps of five, as the files number them."""
    _check_range(info_elevation, 9, "the elevation")
    return info_elevation


def kitti_distance(types: Sequence[str], depths: Sequence[float]) -> int:
    """0 to 3: how near the nearest vehicle (car, van, truck) is, up to 8 m, 20 m or beyond; 3: there is none.

    Args:
        types: of each object, as KITTI's label files name them.
        depths: of each object, metres: the z of its location.
    """
    distances = [depth for kind, depth in zip(types, depths, strict=True) if kind in KITTI_VEHICLES]
    return _bin(min([*distances, KITTI_NO_VEHICLE]), KITTI_DISTANCE_EDGES, "distance")


def dmlab(label: int) -> int:
    """0 to 5, as stored: positive, zero or negative reward, each near or far."""
    _check_range(label, 6, "the label")
    return label


def _check_range(value: int, end: int, what: str) -> None:
    if not 0 <= value < end:
        raise ValueError(f"{what} {value} is not between 0 and {end - 1}")


def _bin(value: float, edges: tuple[float, ...], what: str) -> int:
    """The number of the last edge strictly below `value`."""
    number = int(np.searchsorted(np.asarray(edges), value, side="left")) - 1
    if number < 0:
        raise ValueError(f"the {what} {value} is not above {edges[0]}")
    return number
