"""From a publisher's rows to a source: what the readers of this folder share."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.sources.base import (
    FileSource,
    TextColumn,
    class_name,
    label_map,
    readable,
    reason,
    refuse_empty,
    shown,
)
from vitrail.errors import DataError

Row = tuple[str, str, int]  # path below the folder, class, split

MAX_TEXT_BYTES = 64_000_000  # of a list; the longest, SUN397's, has 4 MB
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Place:
    """A data set's folder, found: what every reader is given."""

    name: str
    spec: str
    root: Path
    limits: ImageLimits


def file_source(
    place: Place, rows: Iterable[Row], *, must_check: bool, skipped: Iterable[tuple[str, str]] = ()
) -> FileSource:
    """A source of pictures that are files.

    Args:
        must_check: whether each file must be looked for: rows of a publisher's list, not of a folder that was listed.
    Raises:
        DataError: no picture at all.
    """
    paths, labels, splits = TextColumn(), array("q"), array("b")
    numbers: dict[str, int] = {}
    left_out = list(skipped)
    for path, name, split in rows:
        if must_check and not (place.root / path).is_file():
            left_out.append((readable(os.fsencode(path)), "there is no such file"))
            continue
        paths.append(os.fsencode(path))
        labels.append(numbers.setdefault(class_name(os.fsencode(name)), len(numbers)))
        splits.append(split)
    refuse_empty(len(paths), f"{shown(place.spec)} ({shown(str(place.root))})", left_out)
    classes, new_labels = label_map(list(numbers), np.frombuffer(labels, dtype=np.int64))
    return FileSource(
        name=place.name,
        spec=place.spec,
        root=str(place.root),
        paths=paths,
        classes=classes,
        labels=new_labels,
        splits=np.frombuffer(splits, dtype=np.int8).copy(),
        skipped=tuple(left_out),
        limits=place.limits,
    )


def class_folders(place: Place, folder: str) -> list[str]:
    """The names of the folders in a folder of the data set, sorted."""
    return sorted(entry.name for entry in _listed(place, folder) if entry.is_dir() and not entry.name.startswith("."))


def pictures_of(place: Place, folder: str) -> Iterator[str]:
    """The pictures directly in a folder, as paths below the data set's, sorted."""
    for name in sorted(entry.name for entry in _listed(place, folder)):
        if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
            yield f"{folder}/{name}" if folder else name


def bytes_of(place: Place, file: str, most: int) -> bytes:
    """A file of the publisher, whole. Raises DataError: it cannot be read, or has more than `most` bytes."""
    path = place.root / file
    try:
        with path.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise DataError(f"{place.spec}: {path}: {reason(error)}") from error
    if len(data) > most:
        raise DataError(f"{place.spec}: {path} has more than {most:,} bytes; it is not the publisher's: fetch it again")
    return data


def lines_of(place: Place, file: str) -> list[str]:
    """The lines of a text file of the publisher that are neither empty nor comments.

    Raises:
        DataError: it cannot be read, or is larger than any list.
    """
    text = bytes_of(place, file, MAX_TEXT_BYTES).decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_mat(place: Place, file: str, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file, by scipy, which comes with scikit-learn.

    Raises:
        DataError: it cannot be read, or a variable is missing.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(place.root / file, variable_names=list(names), squeeze_me=True)
    except Exception as error:  # scipy fails with whatever a damaged file makes it stumble over
        raise DataError(f"{place.spec}: {place.root / file} cannot be read as a MATLAB file: {error}") from error
    for name in names:
        if name not in found:
            raise DataError(f"{place.spec}: {place.root / file} has no variable '{name}'; is it the publisher's file?")
    return [np.asarray(found[name]) for name in names]


def whole_numbers(place: Place, file: str, values: np.ndarray) -> np.ndarray:
    """A vector of a MATLAB file, which may keep whole numbers as floats: (N,) int64.

    Raises:
        DataError: it is no vector, or has anything else than whole numbers.
    """
    vector = np.atleast_1d(values)
    if vector.ndim != 1 or vector.dtype.kind not in "iuf" or not (np.isfinite(vector) & (vector % 1 == 0)).all():
        raise DataError(
            f"{place.spec}: {place.root / file} has {vector.dtype} {vector.shape} where a list of whole numbers must"
            " be; is it the publisher's file?"
        )
    return vector.astype(np.int64)


def _listed(place: Place, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place.root / folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{place.spec}: {place.root / folder}: {reason(error)}") from error
