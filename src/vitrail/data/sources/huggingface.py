"""Hugging Face `datasets`: "hf:NAME_OR_PATH", or "hf:NAME_OR_PATH#CONFIG" where a data set has several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.images import Picture, open_picture
from vitrail.data.sources.base import label_map, reason, refuse_empty, shown
from vitrail.data.split import SPLITS_BY_NAME, UNASSIGNED
from vitrail.errors import DataError, ImageError


@dataclass(frozen=True, eq=False)
class HuggingFaceSource:
    """Rows of one or more splits, memory-mapped by `datasets`. See `Source` for the fields."""

    name: str
    spec: str
    parts: tuple[Any, ...]  # datasets.Dataset, each with the picture column alone and undecoded
    part_names: tuple[str, ...]
    part_of: np.ndarray  # (N,) int8: which part a sample is in
    rows: np.ndarray  # (N,) int64: its row there
    column: str  # of the pictures
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    limits: ImageLimits

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return f"{self.part_names[self.part_of[index]]}/{self.rows[index]}"

    def open(self, index: int) -> Picture:
        return open_picture(self.read_bytes(index), name=self.key(index), limits=self.limits)

    def read_bytes(self, index: int) -> bytes:
        cell = self.parts[self.part_of[index]][int(self.rows[index])][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ImageError(self.key(index), "the row has no picture")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        try:
            with Path(cell["path"]).open("rb") as file:
                return file.read(self.limits.max_bytes + 1)
        except OSError as error:
            raise ImageError(self.key(index), reason(error)) from error


def open_huggingface(spec: str, limits: ImageLimits) -> HuggingFaceSource:
    """List a data set of the hub or of this machine (saved by `save_to_disk`, or a folder that `load_dataset` reads).

    The picture column is the one of type Image; the label column is "label" or the one of type ClassLabel. Rows
    without a label and splits that are neither train, validation nor test are left out and named.

    Raises:
        DataError: `datasets` is not installed, cannot load it, or finds no such columns.
    """
    loaded = _load(spec)
    parts = dict(loaded) if hasattr(loaded, "values") else {"": loaded}
    known = {name: part for name, part in parts.items() if not name or name.lower() in SPLITS_BY_NAME}
    if not known:
        raise DataError(f"{shown(spec)}: none of its splits ({', '.join(parts)}) is train, validation or test")
    image_column, label_column = _columns(spec, next(iter(known.values())).features)
    names: list[str] = []
    numbers: dict[str, int] = {}
    skipped = [(f"split {name}", "is neither train, validation nor test") for name in parts if name not in known]
    rows, labels, splits = [], [], []
    for name, part in known.items():
        found = _labels(part, label_column)
        keep = [row for row, label in enumerate(found) if label]
        skipped += [(f"{name or 'row'}/{row}", "has no label") for row, label in enumerate(found) if not label]
        for label in found:
            if label and numbers.setdefault(label, len(names)) == len(names):
                names.append(label)
        rows.append(np.array(keep, dtype=np.int64))
        labels.append(np.array([numbers[found[row]] for row in keep], dtype=np.int64))
        splits.append(np.full(len(keep), SPLITS_BY_NAME.get(name.lower(), UNASSIGNED), dtype=np.int8))
    refuse_empty(sum(map(len, labels)), shown(spec), skipped)
    classes, new_labels = label_map(names, np.concatenate(labels))
    place = spec.removeprefix("hf:").partition("#")[0]
    return HuggingFaceSource(
        name=Path(place.rstrip("/\\")).name or "data",
        spec=spec,
        parts=tuple(_undecoded(part, image_column) for part in known.values()),
        part_names=tuple(name or "row" for name in known),
        part_of=np.repeat(np.arange(len(rows), dtype=np.int8), list(map(len, rows))),
        rows=np.concatenate(rows),
        column=image_column,
        classes=classes,
        labels=new_labels,
        splits=np.concatenate(splits),
        skipped=tuple(skipped),
        notes=(),
        limits=limits,
    )


def _load(spec: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{shown(spec)}: needs the package datasets; install it with vitrail[huggingface]") from error
    name, _, config = spec.removeprefix("hf:").partition("#")
    saved = [os.path.join(name, file) for file in ("dataset_dict.json", "state.json")]
    try:
        if any(map(os.path.isfile, saved)):
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # it raises some thirty types, its own, pyarrow's and the hub's
        raise DataError(f"{shown(spec)}: datasets cannot load it: {error}") from error


def _columns(spec: str, features: Any) -> tuple[str, str]:
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = ["label"] if "label" in features else labels
    for what, found in (("pictures (type Image)", images), ("labels ('label', or of type ClassLabel)", labels)):
        if len(found) != 1:
            raise DataError(
                f"{shown(spec)}: expected one column of {what}, found {', '.join(found) or 'none'} "
                f"among {', '.join(features)}"
            )
    return images[0], labels[0]


def _labels(part: Any, column: str) -> list[str]:
    """The label of each row by name; empty where there is none (the hub marks that by -1 or null)."""
    values = part.select_columns([column]).with_format(None)[:][column]
    feature = part.features[column]
    if hasattr(feature, "int2str"):
        return ["" if value is None or value < 0 else feature.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]


def _undecoded(part: Any, column: str) -> Any:
    import datasets

    return part.select_columns([column]).cast_column(column, datasets.Image(decode=False)).with_format(None)
