"""Data sets of VTAB (Zhai et al. 2019) that need no file of their own: folders, lists and tables of pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vitrail.data import vtab
from vitrail.data.published.listing import (
    Place,
    Row,
    bytes_of,
    class_folders,
    file_source,
    lines_of,
    pictures_of,
    read_mat,
    whole_numbers,
)
from vitrail.data.sources.base import ArraySource, FileSource, label_map
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.errors import DataError


def read_caltech101(place: Place) -> FileSource:
    """102 classes, the background among them, as VTAB counts; the publisher does not divide them."""
    return _folders(place, "101_ObjectCategories")


def read_eurosat(place: Place) -> FileSource:
    """27,000 pictures of 10 kinds of land; the publisher does not divide them."""
    return _folders(place, "2750")


def read_resisc45(place: Place) -> FileSource:
    """31,500 pictures of 45 kinds of scene; the publisher does not divide them."""
    return _folders(place, "NWPU-RESISC45")


def read_svhn(place: Place) -> ArraySource:
    """73,257 training and 26,032 test digits of 32 x 32 pixels; the publisher's class 10 is the digit 0."""
    pixels, labels, splits = [], [], []
    for file, split in (("train_32x32.mat", TRAIN), ("test_32x32.mat", TEST)):
        found, digits = read_mat(place, file, "X", "y")
        found = found.reshape(*found.shape, 1) if found.ndim == 3 else found
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[:3] != (32, 32, 3):
            raise DataError(f"{place.spec}: X of {file} is {found.dtype} {found.shape}, not uint8 (32, 32, 3, N)")
        digits = whole_numbers(place, file, digits)
        if digits.shape != (found.shape[3],) or digits.min() < 1 or digits.max() > 10:
            raise DataError(f"{place.spec}: y of {file} is not a digit, 1 to 10, for each of {found.shape[3]} pictures")
        pixels.append(found.transpose(3, 0, 1, 2))
        labels.append(digits % 10)
        splits.append(np.full(len(digits), split, dtype=np.int8))
    classes, new_labels = label_map([str(digit) for digit in range(10)], np.concatenate(labels))
    return ArraySource(
        name=place.name,
        spec=place.spec,
        pixels=np.ascontiguousarray(np.concatenate(pixels)),
        classes=classes,
        labels=new_labels,
        splits=np.concatenate(splits),
    )


def read_clevr_count(place: Place) -> FileSource:
    """How many objects a scene has. The official validation split is the test split, as in VTAB."""
    return _clevr(place, lambda objects: f"{vtab.clevr_count(len(objects)) + 3:02} objects")


def read_clevr_distance(place: Place) -> FileSource:
    """How near the nearest object is, in six bins. The official validation split is the test split, as in VTAB."""
    edges = vtab.CLEVR_DISTANCE_EDGES

    def name(objects: list[Any]) -> str:
        label = vtab.clevr_distance([entry["pixel_coords"][2] for entry in objects])
        return f"{label}: {edges[label]:g} to {edges[label + 1]:g}"

    return _clevr(place, name)


_MAX_SCENES_BYTES = 2_000_000_000  # 70,000 scenes of ten objects with their relations are a tenth of it


def _clevr(place: Place, name_of: Callable[[list[Any]], str]) -> FileSource:
    rows = []
    for name, split in (("train", TRAIN), ("val", TEST)):
        file = place.root / "scenes" / f"CLEVR_{name}_scenes.json"
        if not file.exists():
            continue
        content = bytes_of(place, f"scenes/{file.name}", _MAX_SCENES_BYTES)
        try:
            for scene in json.loads(content)["scenes"]:
                picture = scene["image_filename"]
                if "/" in picture or not picture.isprintable():
                    raise ValueError(f"the picture {picture!r} is no file name")
                rows.append((f"images/{name}/{picture}", name_of(scene["objects"]), split))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DataError(f"{place.spec}: {file} is not CLEVR's list of scenes: {error!r}; fetch it again") from error
    return file_source(place, rows, must_check=True)


_SUN_LISTS = (
    (("sun397_tfds_tr.txt", TRAIN), ("sun397_tfds_va.txt", VALIDATION), ("sun397_tfds_te.txt", TEST)),
    (("Training_01.txt", TRAIN), ("Testing_01.txt", TEST)),
)


def read_sun397(place: Place) -> FileSource:
    """108,753 pictures of 397 scenes, divided by the lists that are there.

    Those of TensorFlow Datasets, which VTAB uses (76,128 / 10,875 / 21,750), or the first of the publisher's ten
    partitions (50 training and 50 test pictures of each class).
    """
    lists = next((lists for lists in _SUN_LISTS if (place.root / lists[0][0]).is_file()), None)
    if lists is None:
        raise DataError(
            f"{place.spec}: {place.root} has neither {_SUN_LISTS[0][0]} nor {_SUN_LISTS[1][0]}, which say what is for"
            " training and what for testing; the latter is in the publisher's Partitions.zip, the former in the"
            " repository tensorflow/datasets"
        )
    rows = []
    for file, split in lists:
        for line in lines_of(place, file):
            if not line.startswith("/") or ".." in line or line.count("/") < 3:
                raise DataError(f"{place.spec}: {place.root / file} has the line {line!r}, not '/a/abbey/sun_a.jpg'")
            rows.append((f"SUN397{line}", line[3:].rpartition("/")[0], split))
    return file_source(place, rows, must_check=True)


def read_retinopathy(place: Place) -> FileSource:
    """35,126 training, 10,906 validation (the public board's) and 42,670 test photographs in five grades."""
    rows = []
    for file, folder, splits in (
        ("trainLabels.csv", "train", {"": TRAIN}),
        ("retinopathy_solution.csv", "test", {"Public": VALIDATION, "Private": TEST}),
    ):
        wanted = "an image and a level, 0 to 4" + (", and a Usage, Public or Private" if folder == "test" else "")
        try:
            for row in csv.DictReader(lines_of(place, file)):
                picture, grade, usage = row.get("image") or "", row.get("level") or "", row.get("Usage") or ""
                if "/" in picture or not picture or grade not in tuple("01234") or usage not in splits:
                    raise DataError(f"{place.spec}: {place.root / file} has the row {row}, not {wanted}")
                rows.append((f"{folder}/{picture}.jpeg", f"grade {grade}", splits[usage]))
        except csv.Error as error:
            raise DataError(f"{place.spec}: {place.root / file} is not CSV: {error}; fetch it again") from error
    return file_source(place, rows, must_check=True)


def _folders(place: Place, folder: str) -> FileSource:
    def rows() -> Iterator[Row]:
        for name in class_folders(place, folder):
            for path in pictures_of(place, f"{folder}/{name}"):
                yield path, name, UNASSIGNED

    return file_source(place, rows(), must_check=False)
