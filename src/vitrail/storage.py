"""Files and folders that are there whole or not at all, whatever stops the machine; free of torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_folder(part: str) -> Path:
    """$VITRAIL_CACHE/<part>, or ~/.cache/vitrail/<part>."""
    base = os.environ.get("VITRAIL_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "vitrail") / part


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the operating system put a file's bytes, or a folder's list of names, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is either whole or as it was before, even if the machine stops in the middle."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def to_json(value: Any) -> bytes:
    """Readable JSON in UTF-8. Raises ValueError for numbers JSON has not (NaN, infinity)."""
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, it comes back as it was
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """`write_file` of `to_json`."""
    write_file(path, to_json(value))


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: filled under another name, put on the disk, then renamed.

    An older folder of that name is replaced. On any error what was written so far is removed.

    Yields:
        The folder to fill, ".<name>.partial" beside the target.
    """
    partial = target.with_name(f".{target.name}.partial")
    remove_folder(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.rglob("*"), reverse=True):
            sync(path)
        sync(partial)
        remove_folder(target)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(target.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that a kill in the middle leaves no half of it under its own name."""
    if not path.exists():
        return
    doomed = path if path.name.endswith(".partial") else path.with_name(f".{path.name}.removed.partial")
    if doomed != path:
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
    shutil.rmtree(doomed)
