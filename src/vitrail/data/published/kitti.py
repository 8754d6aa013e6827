"""KITTI's object detection pictures (Geiger et al. 2012), labelled by how near the nearest vehicle is."""

from __future__ import annotations

import math
import re

import numpy as np

from vitrail.data import vtab
from vitrail.data.published.listing import Place, Row, file_source, lines_of
from vitrail.data.sources.base import FileSource
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import DataError

_NAMES = ("0: up to 8 m", "1: 8 to 20 m", "2: beyond 20 m", "3: no vehicle")
_TYPE, _DEPTH, _NUM_FIELDS = 0, 13, 15  # of a line: the z of the location, after box and dimensions
_SEED, _SHARE = 123, 10  # of TensorFlow Datasets' division; one in so many drives


def read_kitti(place: Place) -> FileSource:
    """7,481 pictures in four classes. The publisher's test labels are secret, so VTAB divides its training pictures.

    Whole drives go to one side, as TensorFlow Datasets divides them: 6,347 / 423 / 711.
    """
    splits = _splits(place)
    rows: list[Row] = []
    for number, split in enumerate(splits.tolist()):
        label = _label(place, f"training/label_2/{number:06}.txt")
        rows.append((f"training/image_2/{number:06}.png", _NAMES[label], split))
    return file_source(place, rows, must_check=True)


def _label(place: Place, file: str) -> int:
    objects = [line.split() for line in lines_of(place, file)]
    objects = [fields for fields in objects if fields[_TYPE] != "DontCare"]
    try:
        if any(len(fields) != _NUM_FIELDS for fields in objects):
            raise ValueError(f"a line has not {_NUM_FIELDS} fields")
        depths = [float(fields[_DEPTH]) for fields in objects]
        if not all(map(math.isfinite, depths)):
            raise ValueError("a depth is not finite")
        return vtab.kitti_distance([fields[_TYPE] for fields in objects], depths)
    except ValueError as error:
        raise DataError(f"{place.spec}: {place.root / file} is no label file of KITTI: {error}") from error


def _splits(place: Place) -> np.ndarray:
    """(N,) int8, by the drive that each picture is from."""
    text = ",".join(lines_of(place, "mapping/train_rand.txt"))
    numbers = [int(number[:9]) for number in re.findall(r"\d+", text)]  # of more digits none is a line's
    lines = [line.split() for line in lines_of(place, "mapping/train_mapping.txt")]
    if not numbers or max(numbers) > len(lines) or min(numbers) < 1 or any(len(line) != 3 for line in lines):
        raise DataError(
            f"{place.spec}: {place.root / 'mapping'}: train_rand.txt must name lines of train_mapping.txt, each a date,"
            " a drive and a frame; they are in devkit_object.zip"
        )
    drives = [lines[number - 1][1] for number in numbers]
    known = sorted(set(drives))
    if len(known) < 3:
        raise DataError(f"{place.spec}: {len(known)} drives cannot be divided into three parts")
    generator = np.random.RandomState(_SEED)  # the legacy generator is what made the published division
    share = max(1, len(known) * _SHARE // 100)
    test = set(generator.choice(known, share, replace=False).tolist())
    left = [drive for drive in known if drive not in test]
    validation = set(generator.choice(left, share, replace=False).tolist())
    return np.array(
        [TEST if drive in test else VALIDATION if drive in validation else TRAIN for drive in drives], dtype=np.int8
    )
