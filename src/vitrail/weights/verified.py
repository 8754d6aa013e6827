"""Which bundles were verified already, so that a bundle that did not change is not verified at every start.

A note in the cache folder is named after everything that the outcome depends on: what the file system says of each file
(where, size, times of change, which no program can set back), and the code and the machine that computed the sample
pictures' logits. Notes are believed for a week, because a disk can lose bits without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import vitrail
from vitrail.storage import cache_folder, write_file

BELIEVED_SECONDS = 7 * 24 * 3600
# A file system's clock may be so coarse that a second change within it leaves the same time.
_SETTLED_SECONDS = 2.0
_CODE = ("layers", "models", "data", "weights")  # of this package: what decides the logits, and what is checked


def identity_of(folder: Path, files: Iterable[str]) -> str | None:
    """A name for the files of a bundle as they are now; None where one is missing or was changed a moment ago."""
    facts: list[Any] = [os.path.realpath(folder)]
    try:
        for name in sorted(files):
            status = os.stat(folder / name)
            if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_SECONDS:
                return None
            times = (status.st_mtime_ns, status.st_ctime_ns)
            facts.append((name, status.st_dev, status.st_ino, status.st_size, *times))
    except OSError:
        return None
    facts += [_code(), torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.node()]
    return hashlib.sha256(json.dumps(facts, default=str).encode("utf-8", "surrogateescape")).hexdigest()


def was_verified(identity: str | None) -> bool:
    """Whether `remember` was called for it in the last week."""
    if identity is None:
        return False
    try:
        age = time.time() - (cache_folder("verified") / identity).stat().st_mtime
    except OSError:
        return False
    return 0 <= age < BELIEVED_SECONDS


def remember(identity: str | None) -> None:
    """Note that files of this identity were verified; where no note can be kept, they are verified again next time."""
    if identity is None:
        return
    folder = cache_folder("verified")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for note in folder.iterdir():
            if time.time() - note.stat().st_mtime > BELIEVED_SECONDS:
                note.unlink(missing_ok=True)
        write_file(folder / identity, b"")


def _code() -> list[Any]:
    package = Path(vitrail.__file__).parent
    return [
        (part, file.name, status.st_size, status.st_mtime_ns)
        for part in _CODE
        for file in sorted(os.scandir(package / part), key=lambda entry: entry.name)
        if file.name.endswith(".py") and (status := file.stat())
    ]
