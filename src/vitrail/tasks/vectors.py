"""Files of feature vectors that are written row by row and get their names when they are whole.

FILE.parquet  columns "file" (text) and "features" (lists of float32, all as long); what made them is in its metadata
FILE.npy      (rows, features) float32, and FILE.csv beside it with the column "file", a line a row
FILE.csv      the columns "file", "feature_0", "feature_1", ...; nine digits, which is all that a float32 has
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from vitrail.errors import ConfigError
from vitrail.storage import sync

ABANDONED_SECONDS = 24 * 3600  # after which an unfinished file belongs to nobody
ROWS_A_GROUP = 4096  # of a parquet file: they are in memory together

Rows = npt.NDArray[np.float32]


class Vectors(Protocol):
    def append(self, files: Sequence[str], rows: Rows) -> None:
        """Names (N,) and their vectors (N, D), the same D each time."""

    def finish(self, made_from: dict[str, Any]) -> tuple[Path, ...]:
        """Put everything on the disk under its name; which files there are, the vectors first."""

    def discard(self) -> None:
        """Remove what is not finished; nothing after `finish`."""


def open_vectors(path: Path, force: bool) -> Vectors:
    """A new file of the kind that the ending of `path` says; its folder is made.

    Raises:
        ConfigError: another ending, a package that is missing, a file that is there already (without `force`), or a
            folder that cannot be written to.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"--out {path}: the file must end in one of {', '.join(KINDS)}")
    for there in (path, path.with_suffix(".csv")) if kind is _NpyVectors else (path,):
        if there.is_dir():
            raise ConfigError(f"--out {there}: is a folder; name a file in it")
        if there.exists() and not force:
            raise ConfigError(f"--out {there}: is there already; give another name, or replace it with --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for partial in path.parent.glob(f".{glob.escape(path.stem)}.*.partial"):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink(missing_ok=True)
        return kind(path)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror})") from error


class _Part:
    """A file under a name of its own, until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}.partial")
        self.file: IO[bytes] = self.partial.open("wb")

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def rename(self) -> None:
        os.replace(self.partial, self.path)
        sync(self.path.parent)

    def discard(self) -> None:
        self.file.close()
        with contextlib.suppress(OSError):
            self.partial.unlink(missing_ok=True)


class _CsvVectors:
    def __init__(self, path: Path) -> None:
        self._part = _Part(path)
        self._text = _Csv(self._part.file)
        self._is_begun = False

    def append(self, files: Sequence[str], rows: Rows) -> None:
        if not self._is_begun:
            self._text.write(["file", *(f"feature_{number}" for number in range(rows.shape[1]))])
            self._is_begun = True
        for file, row in zip(files, rows.tolist(), strict=True):
            self._text.write([file, *(f"{value:.9g}" for value in row)])

    def finish(self, made_from: dict[str, Any]) -> tuple[Path, ...]:
        self._part.close()
        self._part.rename()
        return (self._part.path,)

    def discard(self) -> None:
        self._part.discard()


class _NpyVectors:
    def __init__(self, path: Path) -> None:
        self._array = _Part(path)
        self._names = _Part(path.with_suffix(".csv"))
        self._text = _Csv(self._names.file)
        self._text.write(["file"])
        self._shape: tuple[int, int] | None = None

    def append(self, files: Sequence[str], rows: Rows) -> None:
        if self._shape is None:
            self._shape = (0, rows.shape[1])
            self._array.file.write(_npy_header(self._shape))
        self._array.file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self._shape = (self._shape[0] + len(rows), rows.shape[1])
        for file in files:
            self._text.write([file])

    def finish(self, made_from: dict[str, Any]) -> tuple[Path, ...]:
        assert self._shape is not None
        header = _npy_header(self._shape)
        # NumPy leaves room in a header for a longer first number; a header of another length would shift the rows.
        if len(header) != len(_npy_header((0, self._shape[1]))):
            raise ValueError(f"the header of {self._shape} is longer than that of no rows")
        self._array.file.seek(0)
        self._array.file.write(header)
        self._array.close()
        self._names.close()
        # Names and rows must never be of two runs: an older array goes before its names do.
        self._array.path.unlink(missing_ok=True)
        self._names.rename()
        self._array.rename()
        return self._array.path, self._names.path

    def discard(self) -> None:
        self._array.discard()
        self._names.discard()


class _ParquetVectors:
    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ConfigError(
                f"--out {path}: parquet files need pyarrow, which is missing; install it with: pip install"
                " 'vitrail[parquet]', or give a file that ends in .npy or .csv"
            ) from error
        self._arrow, self._parquet = pyarrow, pyarrow.parquet
        self._part = _Part(path)
        self._writer: Any = None
        self._files: list[str] = []
        self._rows: list[Rows] = []

    def append(self, files: Sequence[str], rows: Rows) -> None:
        self._files += files
        self._rows.append(rows)
        if len(self._files) >= ROWS_A_GROUP:
            self._write()

    def _write(self) -> None:
        if not self._files:
            return
        rows = np.concatenate(self._rows)
        if self._writer is None:
            features = self._arrow.list_(self._arrow.float32(), rows.shape[1])
            schema = self._arrow.schema([("file", self._arrow.string()), ("features", features)])
            self._writer = self._parquet.ParquetWriter(self._part.file, schema)
        features = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(rows.reshape(-1)), rows.shape[1])
        columns = [self._arrow.array(self._files, self._arrow.string()), features]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._writer.schema))
        self._files, self._rows = [], []

    def finish(self, made_from: dict[str, Any]) -> tuple[Path, ...]:
        self._write()
        self._writer.add_key_value_metadata({"vitrail": json.dumps(made_from)})
        self._writer.close()
        self._part.close()
        self._part.rename()
        return (self._part.path,)

    def discard(self) -> None:
        self._part.discard()


KINDS: dict[str, Callable[[Path], Vectors]] = {".parquet": _ParquetVectors, ".npy": _NpyVectors, ".csv": _CsvVectors}


class _Csv:
    """Lines of a CSV in UTF-8, written to a binary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._writer = csv.writer(self, lineterminator="\n")

    def write(self, values: Any) -> None:
        """A list of values as a line; the csv module hands the finished line back as text."""
        if isinstance(values, str):
            self._file.write(values.encode("utf-8", "backslashreplace"))
        else:
            self._writer.writerow(values)


def _npy_header(shape: tuple[int, int]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()
