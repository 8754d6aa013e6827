"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the binary version: the Python version is pickles, which can run code."""

from __future__ import annotations

import numpy as np

from vitrail.data.published.listing import Place, bytes_of, class_folders, file_source, lines_of, pictures_of
from vitrail.data.sources.base import ArraySource, FileSource, label_map
from vitrail.data.split import TEST, TRAIN
from vitrail.errors import DataError

_PIXELS = 3 * 32 * 32
_MOST = 50_000  # pictures of a file


def read_cifar10(place: Place) -> ArraySource | FileSource:
    """50,000 training and 10,000 test pictures of 32 x 32 pixels, 10 classes."""
    if not (place.root / "test_batch.bin").exists():
        return _folders(place)
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _read(place, [(file, TRAIN) for file in train] + [("test_batch.bin", TEST)], 1, "batches.meta.txt")


def read_cifar100(place: Place) -> ArraySource | FileSource:
    """50,000 training and 10,000 test pictures of 32 x 32 pixels, by their 100 fine classes."""
    if not (place.root / "test.bin").exists():
        return _folders(place)
    return _read(place, [("train.bin", TRAIN), ("test.bin", TEST)], 2, "fine_label_names.txt")


def _read(place: Place, files: list[tuple[str, int]], num_label_bytes: int, names_file: str) -> ArraySource:
    """Records of `num_label_bytes`, the last of which counts, and the red, green and blue plane."""
    names = lines_of(place, names_file)
    pixels, labels, splits = [], [], []
    for file, split in files:
        path = place.root / file
        size = num_label_bytes + _PIXELS
        data = np.frombuffer(bytes_of(place, file, _MOST * size), dtype=np.uint8)
        if len(data) == 0 or len(data) % size:
            raise DataError(
                f"{place.spec}: {path} has {len(data):,} bytes, which are no whole number of pictures of {size:,}; it"
                " is cut off or of another kind: fetch it again"
            )
        records = data.reshape(-1, size)
        pixels.append(records[:, num_label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(records[:, num_label_bytes - 1].astype(np.int64))
        splits.append(np.full(len(records), split, dtype=np.int8))
    all_labels = np.concatenate(labels)
    if all_labels.max() >= len(names):
        raise DataError(
            f"{place.spec}: label {all_labels.max()} is none of the {len(names)} classes that"
            f" {place.root / names_file} names"
        )
    classes, new_labels = label_map(names, all_labels)
    return ArraySource(
        name=place.name,
        spec=place.spec,
        pixels=np.ascontiguousarray(np.concatenate(pixels)),
        classes=classes,
        labels=new_labels,
        splits=np.concatenate(splits),
    )


def _folders(place: Place) -> FileSource:
    rows = (
        (path, name, split)
        for folder, split in (("train", TRAIN), ("test", TEST))
        for name in class_folders(place, folder)
        for path in pictures_of(place, f"{folder}/{name}")
    )
    return file_source(place, rows, must_check=False)
