"""C of our own, compiled once for each machine where it has a compiler; whoever asks keeps a plain way beside it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitrail.storage import cache_folder

_FLAGS = ("-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 60  # for the compiler; it takes about one


def compiled_library(source: Path, needs: Sequence[str]) -> ctypes.CDLL | None:
    """The library of one C file; None where the processor or the compiler for it is not there.

    It stays in the cache folder, named after the source, the compiler and the flags.

    Args:
        needs: of the processor, as /proc/cpuinfo names them; what the compiler may use beyond the usual.
    """
    if not sys.platform.startswith("linux") or not set(needs) <= _processor_flags():
        return None
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, needs)))
    except (OSError, subprocess.SubprocessError):  # a compiler that is too old, a folder that cannot be written
        return None


def _processor_flags() -> set[str]:
    return set(next((line.split(":", 1)[1].split() for line in _lines("/proc/cpuinfo") if line[:5] == "flags"), []))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _compiled(compiler: str, source: Path, needs: Sequence[str]) -> Path:
    """The library in the cache folder; made now where it is not there.

    Raises:
        OSError, SubprocessError: it cannot be made, or others may write to it.
    """
    flags = [*_FLAGS, *(f"-m{name.replace('_', '')}" for name in needs)]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    made_from = b"\0".join([source.read_bytes(), version, " ".join(flags).encode()])
    folder = cache_folder("kernels")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{source.stem}-{hashlib.sha256(made_from).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place, path.name)
            command = [compiler, *flags, "-shared", str(source), "-o", str(made), *_openmp_in_use(), "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
            os.replace(made, path)
    # It is code, and will be run: nobody else may have put it there.
    for item in (folder, path):
        state = item.stat()
        if state.st_uid != os.getuid() or state.st_mode & 0o022:
            raise PermissionError(f"{item} can be written by others than you")
    return path


def _openmp_in_use() -> list[str]:
    """torch's own OpenMP, so that one pool of threads serves both: two would wait for each other's cores."""
    loaded = (line.split(maxsplit=5)[-1] for line in _lines("/proc/self/maps") if "libgomp" in line)
    return list(loaded)[:1]
