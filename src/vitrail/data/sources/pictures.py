"""Pictures without labels, as `predict` is given them: files, and folders whose pictures are taken.

Not a line in SOURCES: what is found here has no classes and cannot be trained on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.sources.base import DEFAULT_LIMITS, FileSource, TextColumn, refuse_empty, shown
from vitrail.data.sources.folder import EXTENSIONS
from vitrail.errors import DataError


def find_pictures(paths: Sequence[str], limits: ImageLimits = DEFAULT_LIMITS) -> FileSource:
    """Files in the order given; a folder stands for the pictures in and below it, sorted by path.

    A file is taken whatever its name: it is the user who named it, and the reader says whether it is a picture.
    Keys are the paths as given.

    Raises:
        DataError: a path that does not exist, or no picture at all.
    """
    column = TextColumn()
    endings: dict[int, str] = {}
    seen: dict[bytes, int] = {}
    for path in paths:
        for file in _below(path, limits):
            count = seen[file] = seen.get(file, 0) + 1
            if count > 1:
                endings[len(column)] = f" ({count})"
            column.append(file)
    refuse_empty(len(column), ", ".join(map(shown, paths[:3])) or "no path was given", [])
    return FileSource(
        name="pictures",
        spec="",
        root="",
        paths=column,
        classes=("",),
        labels=np.zeros(len(column), dtype=np.int64),
        splits=np.full(len(column), -1, dtype=np.int8),
        limits=limits,
        key_endings=endings,
    )


def _below(path: str, limits: ImageLimits) -> list[bytes]:
    place = Path(path).expanduser()
    if not place.is_dir():
        if not os.path.lexists(place):
            raise DataError(f"{shown(path)}: there is no such file or folder")
        return [os.fsencode(place)]
    endings = tuple(ending for format in limits.formats for ending in EXTENSIONS.get(format, ()))
    found = []
    for folder, below, files in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            os.fsencode(os.path.join(folder, name))
            for name in sorted(files)
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return found
