"""dSprites (Matthey et al. 2017): 737,280 black and white pictures of 64 x 64 pixels, eight pixels to a byte."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np

from vitrail.data import vtab
from vitrail.data.images import Picture, picture_from_array
from vitrail.data.published.listing import Place
from vitrail.data.sources.base import label_map
from vitrail.data.split import UNASSIGNED
from vitrail.errors import DataError

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_MOST = 737_280
_SIDE = 64
_BLOCK = 4096  # pictures
_LATENTS, _PIXELS = np.dtype("<i8"), np.dtype("u1")
_ORIENTATION, _X = 3, 4  # columns of latents_classes


@dataclass(frozen=True, eq=False)
class PackedSource:
    """Black and white pictures, packed: 3 GB become 377 MB. See `Source` for the fields."""

    name: str
    spec: str
    packed: np.ndarray  # (N, 512) uint8
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.packed)

    def key(self, index: int) -> str:
        return f"{self.name}/{index}"

    def open(self, index: int) -> Picture:
        pixels = np.unpackbits(self.packed[index]).reshape(_SIDE, _SIDE) * np.uint8(255)
        return picture_from_array(pixels, self.key(index))

    def read_bytes(self, index: int) -> bytes | None:
        return None


def read_location(place: Place) -> PackedSource:
    """Where the shape is from left to right, in 16 classes; not divided."""
    return _read(place, _X, [vtab.dsprites_location(value) for value in range(32)], "place")


def read_orientation(place: Place) -> PackedSource:
    """How the shape is turned, in 16 classes; not divided."""
    return _read(place, _ORIENTATION, [vtab.dsprites_orientation(value) for value in range(40)], "orientation")


def _read(place: Place, column: int, label_of: list[int], what: str) -> PackedSource:
    try:
        with zipfile.ZipFile(place.root / _FILE) as archive:
            with archive.open("latents_classes.npy") as file:
                latents = _rows(file, _header(file, (6,), _LATENTS), (6,), _LATENTS)
            with archive.open("imgs.npy") as file:
                count = _header(file, (_SIDE, _SIDE), _PIXELS)
                blocks = [
                    np.packbits(_rows(file, min(_BLOCK, count - start), (_SIDE * _SIDE,), _PIXELS), axis=1)
                    for start in range(0, count, _BLOCK)
                ]
        packed = np.concatenate(blocks)
        if len(latents) != len(packed):
            raise ValueError(f"{len(latents):,} rows of latents for {len(packed):,} pictures")
        values = latents[:, column]
        if values.min() < 0 or values.max() >= len(label_of):
            raise ValueError(f"a latent of {values.max()}, where {len(label_of) - 1} is the greatest")
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{place.spec}: {place.root / _FILE} cannot be read: {error}; fetch it again") from error
    names = [f"{what} {label:02}" for label in range(max(label_of) + 1)]
    classes, labels = label_map(names, np.array(label_of, dtype=np.int64)[values])
    splits = np.full(len(packed), UNASSIGNED, dtype=np.int8)
    return PackedSource(place.name, place.spec, packed, classes, labels, splits)


def _header(file: IO[bytes], shape: tuple[int, ...], wanted: np.dtype[np.generic]) -> int:
    """How many rows follow. Only the arrays that are used are opened: the file's metadata is a pickle."""
    np.lib.format.read_magic(file)
    found, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    is_right = found[1:] == shape and not is_fortran and dtype == wanted
    if not is_right or not 0 < found[0] <= _MOST:
        raise ValueError(f"an array of {dtype} {found}, not (up to {_MOST:,}, {', '.join(map(str, shape))})")
    return int(found[0])


def _rows(file: IO[bytes], count: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    size = count * int(np.prod(shape)) * dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise EOFError("the array is cut off")
    return np.frombuffer(data, dtype=dtype).reshape(count, *shape)
