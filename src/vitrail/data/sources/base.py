"""What every data set looks like from outside, and the pieces its listing is made of: columns, not objects.

A million files as `Path` objects take a gigabyte; as one run of bytes with an offset each they take what their names
take, and travel to a loader worker in one piece.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.images import Picture, open_picture, picture_from_array
from vitrail.errors import DataError, ImageError

DEFAULT_LIMITS = ImageLimits()


class Source(Protocol):
    """A data set: N labelled pictures that are opened one at a time. Picklable, for loader workers."""

    @property
    def name(self) -> str:
        """A short name, for run folders: "clothing-photos"."""

    @property
    def spec(self) -> str:
        """What `open_source` was given."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The label map, sorted by name over all splits; the index is the label."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""

    @property
    def splits(self) -> np.ndarray:
        """(N,) int8: TRAIN, VALIDATION, TEST, or UNASSIGNED where the source does not say."""

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(file or folder, why) for everything that was left out while listing."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the listing that a user should read."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The name of a sample everywhere: its path below the data set, or "digits/17". Unique, and valid UTF-8."""

    def open(self, index: int) -> Picture:
        """Raises ImageError."""

    def read_bytes(self, index: int) -> bytes | None:
        """The file as it is, to be compared byte by byte; None where there is no file. Raises ImageError."""


class TextColumn:
    """Many short texts as one run of bytes: `column[i]` is the i-th, as bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: bytes) -> None:
        self._bytes += text
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not between 0 and {len(self) - 1}")
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])


@dataclass(frozen=True, eq=False)
class FileSource:
    """Pictures that are files, with paths relative to `root`. See `Source` for the fields."""

    name: str
    spec: str
    root: str
    paths: TextColumn  # as the file system has them, in bytes
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    limits: ImageLimits = DEFAULT_LIMITS
    key_endings: dict[int, str] = field(default_factory=dict)  # for paths that are listed more than once

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return readable(self.paths[index]) + self.key_endings.get(index, "")

    def open(self, index: int) -> Picture:
        return open_picture(self._path(index), name=self.key(index), limits=self.limits)

    def read_bytes(self, index: int) -> bytes | None:
        try:
            with open(self._path(index), "rb") as file:
                # One byte more than the limit is enough for the reader to refuse it.
                return file.read(self.limits.max_bytes + 1)
        except OSError as error:
            raise ImageError(self.key(index), reason(error)) from error

    def _path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures in memory, (N, H, W) or (N, H, W, C) uint8. See `Source` for the fields."""

    name: str
    spec: str
    pixels: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def key(self, index: int) -> str:
        return f"{self.name}/{index}"

    def open(self, index: int) -> Picture:
        return picture_from_array(self.pixels[index], self.key(index))

    def read_bytes(self, index: int) -> bytes | None:
        return None


def readable(name: bytes) -> str:
    r"""A file name as text that can be written anywhere: bytes that are not UTF-8 become "\xff"."""
    return name.decode("utf-8", "backslashreplace")


def class_name(name: bytes) -> str:
    """A folder's name as a label. Composed (NFC), so that "é" typed on two systems is one class."""
    return unicodedata.normalize("NFC", readable(name))


def shown(key: str) -> str:
    """A key for one line of a message: line breaks and control characters written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in key)


def several(names: list[str], most: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    text = ", ".join(shown(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def reason(error: OSError) -> str:
    """The system's reason as a short clause: "permission denied"."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def name_of(path: Path) -> str:
    """The name of a data set, from where it lies, "." included: of a folder its name, of a file its stem."""
    full = Path(os.path.abspath(path))
    return readable(os.fsencode(full.name if full.is_dir() else full.stem)) or "data"


def label_map(names: list[str], labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the classes by name.

    Args:
        names: the classes in the order they were met.
        labels: (N,) positions in `names`.
    Returns:
        the names that have samples, sorted; and the labels (N,) int64 as positions among them.
    """
    counts = np.bincount(labels, minlength=len(names)) if len(labels) else np.zeros(len(names), dtype=np.int64)
    used = sorted((name, old) for old, name in enumerate(names) if counts[old])
    new = np.full(len(names), -1, dtype=np.int64)
    for label, (_, old) in enumerate(used):
        new[old] = label
    return tuple(name for name, _ in used), new[labels]


def refuse_empty(num_samples: int, what: str, skipped: list[tuple[str, str]]) -> None:
    """Raises DataError where nothing was found, with the first reasons."""
    if num_samples == 0:
        left_out = several([f"{file} ({why})" for file, why in skipped])
        raise DataError(f"{what}: found no pictures." + (f" Left out: {left_out}." if skipped else ""))
