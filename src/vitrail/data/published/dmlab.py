"""DMLab (Zhai et al. 2019): frames of DeepMind Lab in TFRecord files, labelled by what is how near."""

from __future__ import annotations

import mmap
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data import vtab
from vitrail.data.config import ImageLimits
from vitrail.data.images import Picture, open_picture
from vitrail.data.published.listing import Place
from vitrail.data.published.tfrecord import Span, feature_of, records
from vitrail.data.sources.base import label_map, reason, refuse_empty, shown
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import DataError, ImageError

_FILES = (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))


@dataclass(frozen=True, eq=False)
class SpanSource:
    """Pictures that are parts of larger files. See `Source` for the fields."""

    name: str
    spec: str
    files: tuple[Path, ...]
    file_of: np.ndarray  # (N,) int64 into `files`
    spans: np.ndarray  # (N, 2) int64: first byte, and the one after the last
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    limits: ImageLimits
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.spans)

    def key(self, index: int) -> str:
        return f"{self.files[self.file_of[index]].name}/{self.spans[index, 0]}"

    def open(self, index: int) -> Picture:
        return open_picture(self.read_bytes(index), name=self.key(index), limits=self.limits)

    def read_bytes(self, index: int) -> bytes:
        start, end = self.spans[index].tolist()
        try:
            with self.files[self.file_of[index]].open("rb") as file:
                file.seek(start)
                return file.read(min(end - start, self.limits.max_bytes + 1))
        except OSError as error:
            raise ImageError(self.key(index), reason(error)) from error


def read_dmlab(place: Place) -> SpanSource:
    """65,550 training, 22,628 validation and 22,735 test frames of 480 x 360 pixels in six classes."""
    files: list[Path] = []
    file_of, spans, labels, splits = array("q"), array("q"), array("q"), array("b")
    for name, split in _FILES:
        for path in sorted(place.root.glob(f"dmlab-{name}.tfrecord*")):
            found = _list(place, path)
            for picture, label in found:
                spans.extend((picture.start, picture.end))
                labels.append(label)
            file_of.extend([len(files)] * len(found))
            splits.extend([split] * len(found))
            files.append(path)
    refuse_empty(len(labels), f"{shown(place.spec)} ({shown(str(place.root))})", [])
    names = [f"class {label}" for label in range(6)]
    classes, numbers = label_map(names, np.frombuffer(labels, dtype=np.int64))
    return SpanSource(
        name=place.name,
        spec=place.spec,
        files=tuple(files),
        file_of=np.frombuffer(file_of, dtype=np.int64),
        spans=np.frombuffer(spans, dtype=np.int64).reshape(-1, 2),
        classes=classes,
        labels=numbers,
        splits=np.frombuffer(splits, dtype=np.int8),
        limits=place.limits,
    )


def _list(place: Place, path: Path) -> list[tuple[Span, int]]:
    """Where the picture of each record lies, and its label."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            return [_example(data, record) for record in records(data)]
    except (OSError, ValueError) as error:
        raise DataError(f"{place.spec}: {path} cannot be read as TFRecord: {error}; fetch it again") from error


def _example(data: memoryview, record: Span) -> tuple[Span, int]:
    picture, label = feature_of(data, record, "image"), feature_of(data, record, "label")
    if isinstance(picture, int) or not isinstance(label, int):
        raise ValueError("'image' must be bytes and 'label' an integer")
    return picture, vtab.dmlab(label)
