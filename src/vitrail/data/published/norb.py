"""smallNORB (LeCun et al. 2004): 24,300 training and 24,300 test pairs of grey pictures of 96 x 96 pixels.

The publisher's files are matrices in a format of their own: a magic number that says what is stored, the number of
dimensions, the dimensions (three at least), then the values, all little-endian.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from vitrail.data import vtab
from vitrail.data.published.listing import Place
from vitrail.data.sources.base import ArraySource, label_map
from vitrail.data.split import TEST, TRAIN
from vitrail.errors import DataError

FILES = (
    ("smallnorb-5x46789x9x18x6x2x96x96-training", TRAIN),
    ("smallnorb-5x01235x9x18x6x2x96x96-testing", TEST),
)
_TYPES = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
_MOST = 24_300  # pictures of a file
_ELEVATION, _AZIMUTH = 1, 2  # columns of the info file; before them the toy, after them the light


def read_azimuth(place: Place) -> ArraySource:
    """From which of 18 sides the toy is seen, by the first of the two cameras, as in VTAB."""
    return _read(place, _AZIMUTH, vtab.smallnorb_azimuth, lambda label: f"azimuth {20 * label:03} degrees")


def read_elevation(place: Place) -> ArraySource:
    """From which of nine heights the toy is seen, by the first of the two cameras, as in VTAB."""
    return _read(place, _ELEVATION, vtab.smallnorb_elevation, lambda label: f"elevation {30 + 5 * label} degrees")


def _read(place: Place, column: int, label_of: Callable[[int], int], name_of: Callable[[int], str]) -> ArraySource:
    pixels, labels, splits = [], [], []
    for file, split in FILES:
        pictures = read_matrix(place, f"{file}-dat.mat", np.dtype("u1"), (2, 96, 96))
        info = read_matrix(place, f"{file}-info.mat", np.dtype("<i4"), (4,))
        if len(pictures) != len(info):
            raise DataError(f"{place.spec}: {file} has {len(pictures):,} pictures and {len(info):,} rows of info")
        try:
            labels += [label_of(value) for value in info[:, column].tolist()]
        except ValueError as error:
            raise DataError(f"{place.spec}: {place.root / file}-info.mat: {error}") from error
        pixels.append(pictures[:, 0])
        splits.append(np.full(len(info), split, dtype=np.int8))
    names = [name_of(label) for label in range(max(labels) + 1)]
    classes, numbers = label_map(names, np.array(labels, dtype=np.int64))
    return ArraySource(place.name, place.spec, np.concatenate(pixels), classes, numbers, np.concatenate(splits))


def read_matrix(place: Place, file: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    """(N, *shape) of a file of the publisher, as it is or as it was unpacked.

    Raises:
        DataError: it cannot be read, or holds something else, or more than was published.
    """
    path = place.root / file
    if not path.exists():
        path = place.root / f"{file}.gz"
    try:
        with _opened(path) as stream:
            count = _header(stream, dtype, shape)
            size = count * int(np.prod(shape)) * dtype.itemsize
            data = stream.read(size)
            if len(data) != size or stream.read(1):
                raise ValueError(f"{count:,} rows are announced, and the file has not just as many")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{place.spec}: {path} cannot be read: {error}; fetch it again") from error
    return np.frombuffer(data, dtype=dtype).reshape(count, *shape)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _header(stream: BinaryIO, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> int:
    """How many rows follow."""
    magic, num_dimensions = _numbers(stream, 2)
    if _TYPES.get(magic) != dtype:
        raise ValueError(f"the magic number {magic:#x} is not that of a matrix of {dtype}")
    if num_dimensions != 1 + len(shape):
        raise ValueError(f"{num_dimensions} dimensions, not {1 + len(shape)}")
    count, *others = _numbers(stream, max(3, num_dimensions))[:num_dimensions]
    if tuple(others) != shape or not 0 < count <= _MOST:
        raise ValueError(f"a matrix of {(count, *others)}, not (up to {_MOST:,}, {', '.join(map(str, shape))})")
    return count


def _numbers(stream: BinaryIO, count: int) -> list[int]:
    data = stream.read(4 * count)
    if len(data) != 4 * count:
        raise EOFError("the file is cut off")
    return [int(number) for number in np.frombuffer(data, dtype="<i4")]
