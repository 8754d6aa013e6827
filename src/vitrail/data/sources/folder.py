"""A folder of pictures: PHOTOS/<class>/** or PHOTOS/{train,val|valid|validation,test}/<class>/**, or flat."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.sources.base import (
    FileSource,
    TextColumn,
    class_name,
    label_map,
    name_of,
    readable,
    reason,
    refuse_empty,
    several,
    shown,
)
from vitrail.data.split import SPLIT_NAMES, SPLITS_BY_NAME, TRAIN, UNASSIGNED
from vitrail.errors import DataError, did_you_mean

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}


def open_folder(spec: str, limits: ImageLimits, *, labelled: bool = True) -> FileSource:
    """List the pictures of a folder; nothing is opened.

    Links are followed, each real folder once in a class. Names that begin with a dot, files whose extension is not a
    picture's, and folders that cannot be read are left out and named in `skipped`.

    Args:
        labelled: False takes pictures that lie directly in the folder (or in its split folders) for one class, named
            after the folder.
    Raises:
        DataError: no such folder, pictures without class folders, two folders for one split, or no pictures at all.
    """
    root = Path(spec).expanduser()
    if not root.is_dir():
        raise DataError(_not_a_folder(spec, root))
    scan = _Scan(os.fsencode(root), limits, None if labelled else name_of(root))
    folders, files = scan.entries(b"")
    if scan.skipped and not folders and not files:
        refuse_empty(0, f"the folder {shown(spec)}", scan.skipped)
    splits = _split_folders(spec, folders)
    if splits is None:
        scan.classes_of(b"", folders, files, UNASSIGNED)
    else:
        for name in folders + files:
            if name not in splits:
                scan.skipped.append((readable(name), "is outside the split folders"))
        for name, split in sorted(splits.items(), key=lambda item: item[1]):
            scan.classes_of(name, *scan.entries(name), split)
    refuse_empty(len(scan.paths), f"the folder {shown(spec)}", scan.skipped)
    classes, labels = label_map(scan.classes, np.frombuffer(scan.labels, dtype=np.int64))
    return FileSource(
        name=name_of(root),
        spec=spec,
        root=str(root),
        paths=scan.paths,
        classes=classes,
        labels=labels,
        splits=np.frombuffer(scan.splits, dtype=np.int8).copy(),
        skipped=tuple(scan.skipped),
        notes=tuple(_notes(scan, classes)),
        limits=limits,
    )


def _not_a_folder(spec: str, root: Path) -> str:
    if root.exists():
        return f"{shown(spec)} is a file; give a folder of class folders, a .csv or a .parquet"
    try:
        near = did_you_mean(root.name, os.listdir(root.parent))
    except OSError:
        near = ""
    return f"{shown(spec)}: there is no such folder or file.{near}"


def _split_folders(spec: str, folders: list[bytes]) -> dict[bytes, int] | None:
    """Folder -> split, where the folder is divided; None where its sub-folders are classes.

    "train" may also be a class (bus, car, train): it is a split where all sub-folders have names of splits, or where
    another split lies beside it.
    """
    found = {
        name: SPLITS_BY_NAME[readable(name).lower()] for name in folders if readable(name).lower() in SPLITS_BY_NAME
    }
    if not found or (len(found) < len(folders) and (len(set(found.values())) < 2 or TRAIN not in found.values())):
        return None
    for split, split_name in enumerate(SPLIT_NAMES):
        same = [readable(name) for name, value in found.items() if value == split]
        if len(same) > 1:
            raise DataError(f"{shown(spec)}: {several(same)} are all {split_name} splits; keep one of them")
    return found


def _notes(scan: _Scan, classes: tuple[str, ...]) -> list[str]:
    notes = []
    empty = sorted(set(scan.classes) - set(classes))
    if empty:
        count = "1 class folder holds" if len(empty) == 1 else f"{len(empty):,} class folders hold"
        notes.append(f"{count} no pictures and became no class: {several(empty)}.")
    if len(classes) == 1 and scan.num_below == len(scan.paths):
        notes.append(
            f"All pictures lie below the one class folder '{shown(classes[0])}'; if its sub-folders are the classes, "
            "give that folder instead."
        )
    return notes


class _Scan:
    """The columns of a listing while it grows. Names are bytes, as the system has them: nothing can fail to decode."""

    def __init__(self, root: bytes, limits: ImageLimits, only_class: str | None = None) -> None:
        self.root = root
        self.only_class = only_class  # of pictures that lie in no class folder; None: these are refused
        self.extensions = tuple(
            extension.encode() for format in limits.formats for extension in EXTENSIONS.get(format, ())
        )
        self.paths = TextColumn()
        self.labels = array("q")
        self.splits = array("b")
        self.classes: list[str] = []
        self.num_below = 0  # pictures that lie deeper than directly in their class folder
        self.skipped: list[tuple[str, str]] = []
        self._class_numbers: dict[str, int] = {}

    def skip(self, path: bytes, why: str) -> None:
        self.skipped.append((readable(path), why))

    def entries(self, folder: bytes) -> tuple[list[bytes], list[bytes]]:
        """The names of the folders and of the files in a folder, each sorted. What is neither is skipped."""
        folders, files = [], []
        try:
            with os.scandir(os.path.join(self.root, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.skip(folder or b".", f"the folder cannot be read: {reason(error)}")
            return [], []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            try:
                if entry.name.startswith(b"."):
                    self.skip(path, "is hidden")
                elif entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
                else:
                    self.skip(path, "is a link to nothing" if entry.is_symlink() else "is not a regular file")
            except OSError as error:  # a link to itself, a folder that may be listed but not entered
                self.skip(path, reason(error))
        return folders, files

    def classes_of(self, parent: bytes, folders: list[bytes], files: list[bytes], split: int) -> None:
        """Add the class folders of a split (or of the whole data set)."""
        pictures = [name for name in files if name.lower().endswith(self.extensions)]
        if pictures and not folders:
            if self.only_class is not None:
                self._add(parent, files, self._class_number(self.only_class), split)
                return
            where = readable(os.path.join(self.root, parent)).rstrip("/")
            raise DataError(
                f"{shown(where)} holds {len(pictures):,} pictures but no class folders; move each picture into a "
                "folder named after its class, or list them in a .csv with the columns path,label"
            )
        for name in files:
            self.skip(os.path.join(parent, name), "is outside the class folders")
        above = {self._identity(b""), self._identity(parent)}
        for name in folders:
            self._class_folder(os.path.join(parent, name), class_name(name), split, set(above))

    def _class_folder(self, top: bytes, name: str, split: int, visited: set[tuple[int, int] | None]) -> None:
        if self._identity(top) in visited:
            self.skip(top, "is a link back to a folder above it")
            return
        number = self._class_number(name)
        pending = [top]
        while pending:
            folder = pending.pop()
            identity = self._identity(folder)
            if identity in visited:
                self.skip(folder, "is a link to a folder that is listed already")
                continue
            visited.add(identity)
            folders, files = self.entries(folder)
            pending += [os.path.join(folder, below) for below in reversed(folders)]
            added = self._add(folder, files, number, split)
            self.num_below += added if folder != top else 0

    def _class_number(self, name: str) -> int:
        number = self._class_numbers.setdefault(name, len(self.classes))
        if number == len(self.classes):
            self.classes.append(name)
        return number

    def _add(self, folder: bytes, files: list[bytes], label: int, split: int) -> int:
        """Add the pictures among the files of a folder, and answer how many they are."""
        before = len(self.paths)
        for file in files:
            if file.lower().endswith(self.extensions):
                self.paths.append(os.path.join(folder, file))
                self.labels.append(label)
                self.splits.append(split)
            else:
                self.skip(os.path.join(folder, file), "does not have the extension of a picture that is read")
        return len(self.paths) - before

    def _identity(self, folder: bytes) -> tuple[int, int] | None:
        try:
            status = os.stat(os.path.join(self.root, folder))
        except OSError:
            return None
        return status.st_dev, status.st_ino
