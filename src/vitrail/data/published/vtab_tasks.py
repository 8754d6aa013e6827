"""Data sets of VTAB (Zhai et al. 2019) that are not among the others: class folders, SVHN, CLEVR."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vitrail.data import vtab
from vitrail.data.published.listing import Place, Row, class_folders, file_source, pictures_of, read_mat
from vitrail.data.sources.base import ArraySource, FileSource, label_map, reason
from vitrail.data.split import TEST, TRAIN, UNASSIGNED
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
        digits = np.atleast_1d(digits).astype(np.int64)
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


def _clevr(place: Place, name_of: Callable[[list[Any]], str]) -> FileSource:
    rows = []
    for name, split in (("train", TRAIN), ("val", TEST)):
        file = place.root / "scenes" / f"CLEVR_{name}_scenes.json"
        if not file.exists():
            continue
        try:
            scenes = json.loads(file.read_bytes())["scenes"]
            for scene in scenes:
                picture = scene["image_filename"]
                if "/" in picture:
                    raise ValueError(f"the picture {picture!r} is a path")
                rows.append((f"images/{name}/{picture}", name_of(scene["objects"]), split))
        except OSError as error:
            raise DataError(f"{place.spec}: {file}: {reason(error)}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{place.spec}: {file} is not CLEVR's list of scenes: {error!r}") from error
    return file_source(place, rows, must_check=True)


def _folders(place: Place, folder: str) -> FileSource:
    def rows() -> Iterator[Row]:
        for name in class_folders(place, folder):
            for path in pictures_of(place, f"{folder}/{name}"):
                yield path, name, UNASSIGNED

    return file_source(place, rows(), must_check=False)
