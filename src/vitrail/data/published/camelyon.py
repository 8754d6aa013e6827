"""Patch Camelyon (Veeling et al. 2018): patches of tissue in HDF5 files, read by h5py (the extra vitrail[hdf5])."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.images import Picture, picture_from_array
from vitrail.data.published.listing import Place
from vitrail.data.sources.base import label_map
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import DataError, ImageError

FILES = (("train", TRAIN), ("valid", VALIDATION), ("test", TEST))
_SHAPE = (96, 96, 3)
_MOST = 262_144  # pictures of a file


@dataclass(frozen=True, eq=False)
class Hdf5Source:
    """Pictures in arrays of HDF5 files, which each process opens when it first needs them. See `Source`."""

    name: str
    spec: str
    files: tuple[Path, ...]
    starts: tuple[int, ...]  # index of each file's first picture
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    opened: dict[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": {}}

    def key(self, index: int) -> str:
        number = self._file_of(index)
        return f"{self.files[number].stem}/{index - self.starts[number]}"

    def open(self, index: int) -> Picture:
        number = self._file_of(index)
        try:
            if number not in self.opened:
                self.opened[number] = _open(self.files[number])
            pixels = np.asarray(self.opened[number]["x"][index - self.starts[number]])
        except (OSError, KeyError, RuntimeError) as error:
            raise ImageError(self.key(index), f"cannot be read ({error})") from error
        return picture_from_array(pixels, self.key(index))

    def read_bytes(self, index: int) -> bytes | None:
        return None

    def _file_of(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1


def read_camelyon(place: Place) -> Hdf5Source:
    """262,144 training, 32,768 validation and 32,768 test patches of 96 x 96 pixels: is there a metastasis?"""
    files, starts, labels, splits = [], [], [], []
    count = 0
    for name, split in FILES:
        pictures, answers = (place.root / f"camelyonpatch_level_2_split_{name}_{letter}.h5" for letter in ("x", "y"))
        found = _labels(place, pictures, answers)
        files.append(pictures)
        starts.append(count)
        labels.append(found)
        splits.append(np.full(len(found), split, dtype=np.int8))
        count += len(found)
    classes, numbers = label_map(["no metastasis", "metastasis"], np.concatenate(labels))
    return Hdf5Source(place.name, place.spec, tuple(files), tuple(starts), classes, numbers, np.concatenate(splits))


def _labels(place: Place, pictures: Path, answers: Path) -> np.ndarray:
    """(N,) int64, 0 or 1, one for each of the pictures."""
    try:
        with _open(answers) as file:
            if file["y"].size > _MOST or file["y"].dtype.kind not in "iu":  # before anything is unpacked
                raise ValueError(f"y is {file['y'].dtype} {file['y'].shape}, not up to {_MOST:,} whole numbers")
            labels = np.asarray(file["y"], dtype=np.int64).reshape(-1)
        with _open(pictures) as file:
            shape, dtype = file["x"].shape, file["x"].dtype
        if shape != (len(labels), *_SHAPE) or dtype != np.uint8 or not 0 < len(labels) <= _MOST:
            raise ValueError(f"x is {dtype} {shape}, not uint8 ({len(labels):,}, 96, 96, 3) as its labels have it")
        if labels.min() < 0 or labels.max() > 1:
            raise ValueError(f"{answers.name} has labels from {labels.min()} to {labels.max()}, not 0 and 1")
    except ImportError as error:
        raise DataError(
            f"{place.spec}: HDF5 files need the package h5py; install it with: pip install 'vitrail[hdf5]'"
        ) from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(f"{place.spec}: {pictures} and its labels cannot be read: {error}; fetch them again") from error
    return labels


def _open(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")
