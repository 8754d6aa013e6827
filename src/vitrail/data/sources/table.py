"""A table of pictures: a .csv or a .parquet with the columns path,label[,split]; paths relative to the table."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.sources.base import FileSource, TextColumn, label_map, name_of, refuse_empty, shown
from vitrail.data.split import SPLITS_BY_NAME, UNASSIGNED
from vitrail.errors import DataError, did_you_mean

Row = tuple[str, str, str]  # path, label, split


def open_table(spec: str, limits: ImageLimits) -> FileSource:
    """List the rows of a table; nothing is opened, but each file must be there.

    Rows without a path or a label and rows whose file is missing are left out and named in `skipped`. A path that is
    listed again keeps both rows, the later one under the key "path (row 7)".

    Raises:
        DataError: no such table, not a table, a missing column, an unknown split, or no row that can be used.
    """
    path = Path(spec).expanduser()
    if not path.is_file():
        raise DataError(f"{shown(spec)}: there is no such table")
    table = _Table(spec, os.path.dirname(os.path.abspath(path)))
    rows = _parquet_rows(spec, path) if path.suffix.lower() == ".parquet" else _csv_rows(spec, path)
    for number, row in enumerate(rows, start=1):
        table.add(number, row)
    refuse_empty(len(table.paths), f"{shown(spec)} (paths are relative to the table)", table.skipped)
    classes, labels = label_map(table.classes, np.frombuffer(table.labels, dtype=np.int64))
    return FileSource(
        name=name_of(path),
        spec=spec,
        root=table.root,
        paths=table.paths,
        classes=classes,
        labels=labels,
        splits=np.frombuffer(table.splits, dtype=np.int8).copy(),
        skipped=tuple(table.skipped),
        limits=limits,
        key_endings=table.key_endings,
    )


class _Table:
    """The columns of a listing while it grows."""

    def __init__(self, spec: str, root: str) -> None:
        self.spec, self.root = spec, root
        self.paths = TextColumn()
        self.labels = array("q")
        self.splits = array("b")
        self.classes: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.key_endings: dict[int, str] = {}
        self._class_numbers: dict[str, int] = {}
        self._seen: set[int] = set()  # hashes: a quarter of the memory of a million paths

    def add(self, number: int, row: Row) -> None:
        """Add row `number` (from 1, below the header), or name it in `skipped`."""
        path, label, split = row
        if not path or not label:
            self.skipped.append((f"row {number}", "has no path" if not path else "has no label"))
            return
        number_of_split = SPLITS_BY_NAME.get(split.lower(), UNASSIGNED)
        if split and number_of_split == UNASSIGNED:
            known = ", ".join(SPLITS_BY_NAME)
            raise DataError(
                f"{shown(self.spec)}: row {number} has the split {split!r}; known are {known}, or nothing."
                f"{did_you_mean(split, SPLITS_BY_NAME)}"
            )
        try:
            encoded = os.fsencode(path)
            missing = not os.path.isfile(os.path.join(self.root, path))
        except ValueError:  # a zero character, or half of a surrogate pair
            encoded, missing = b"", True
        if missing:
            self.skipped.append((ascii(path)[1:-1] if not encoded else path, "there is no such file"))
            return
        if hash(encoded) in self._seen:
            self.key_endings[len(self.paths)] = f" (row {number})"
        self._seen.add(hash(encoded))
        label_number = self._class_numbers.setdefault(label, len(self.classes))
        if label_number == len(self.classes):
            self.classes.append(label)
        self.paths.append(encoded)
        self.labels.append(label_number)
        self.splits.append(number_of_split)


def _columns(spec: str, found: list[str]) -> dict[str, int]:
    """Name -> place of the columns path, label and split (where there is one)."""
    places = {name.strip().lower(): place for place, name in reversed(list(enumerate(found)))}
    for name in ("path", "label"):
        if name not in places:
            hint = " Separate the columns by commas." if len(found) == 1 else did_you_mean(name, found)
            raise DataError(
                f"{shown(spec)}: there is no column '{name}' among {', '.join(map(shown, found)) or 'none'}; "
                f"the columns are path,label[,split].{hint}"
            )
    return places


def _csv_rows(spec: str, path: Path) -> Iterator[Row]:
    # The signature is what spreadsheets write in front; undecodable names survive as the file system has them.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            places = _columns(spec, next(reader, []))
            wanted = [places["path"], places["label"], places.get("split", -1)]
            for row in reader:
                if row:
                    cells = [row[place].strip() if 0 <= place < len(row) else "" for place in wanted]
                    yield cells[0], _clean(cells[1]), cells[2]
        except csv.Error as error:
            raise DataError(f"{shown(spec)}: line {reader.line_num} is not CSV: {error}") from error


def _parquet_rows(spec: str, path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{shown(spec)}: reading Parquet needs pyarrow; install it with vitrail[parquet]") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            places = _columns(spec, names)
            wanted = [names[places[name]] for name in ("path", "label", "split") if name in places]
            for batch in file.iter_batches(columns=wanted):
                columns = [batch.column(name).to_pylist() for name in wanted]
                columns += [[""] * batch.num_rows] * (3 - len(columns))
                for cells in zip(*columns, strict=True):
                    row = ["" if cell is None else str(cell).strip() for cell in cells]
                    yield row[0], _clean(row[1]), row[2]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{shown(spec)}: cannot be read as Parquet: {error}") from error


def _clean(label: str) -> str:
    """A label that can be written anywhere, as class folders' names are."""
    return label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
