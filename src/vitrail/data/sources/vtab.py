"""A task of VTAB-1k: "vtab:TASK", or "vtab:TASK:FOLDER", as the published data set of that name with 1,000 pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitrail.data.images import Picture
from vitrail.data.sources.base import Source, shown
from vitrail.data.split import SPLIT_NAMES, UNASSIGNED
from vitrail.data.vtab import VTAB
from vitrail.data.vtab_cut import cut
from vitrail.errors import DataError, did_you_mean

PREFIX = "vtab:"


@dataclass(frozen=True, eq=False)
class PartSource:
    """Some pictures of another source, divided in another way. See `Source` for the fields."""

    whole: Source
    name: str
    spec: str
    rows: np.ndarray  # (N,) int64 into `whole`
    labels: np.ndarray
    splits: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return self.whole.skipped

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.whole.key(int(self.rows[index]))

    def open(self, index: int) -> Picture:
        return self.whole.open(int(self.rows[index]))

    def read_bytes(self, index: int) -> bytes | None:
        return self.whole.read_bytes(int(self.rows[index]))


def published_spec(spec: str) -> str:
    """The data set that a task is a part of. Raises DataError where VTAB has no such task."""
    name = _name_of(spec)
    if name not in VTAB:
        raise DataError(
            f"{shown(spec)}: VTAB has no task '{shown(name)}'.{did_you_mean(name, VTAB)} Its tasks are"
            f" {', '.join(VTAB)}."
        )
    return spec.removeprefix(PREFIX)


def cut_as_vtab(spec: str, whole: Source) -> PartSource:
    """A task's data set as VTAB-1k divides it: 800 / 200 / the whole test split.

    Raises:
        DataError: a part of it is missing.
    """
    name = _name_of(spec)
    splits = cut(whole, VTAB[name])
    for split, part in enumerate(SPLIT_NAMES):
        if not (splits == split).any():
            raise DataError(f"{shown(spec)}: no picture is left for the {part} split; is the data set whole?")
    rows = np.flatnonzero(splits != UNASSIGNED)
    return PartSource(whole, f"vtab-{name}", spec, rows, whole.labels[rows], splits[rows])


def _name_of(spec: str) -> str:
    return spec.removeprefix(PREFIX).partition(":")[0]
