"""Files of tensors: the only reader of foreign bytes, and writers that leave a whole file or folder, or none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from vitrail.errors import WeightsError

# First bytes -> what the file is. A safetensors file starts with the length of its header and "{".
_FOREIGN = {
    b"\x80": "a Python pickle",
    b"PK": "a zip archive, as torch.save and numpy.savez write",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"(": "a Python pickle",  # protocol 0
    b"cos\n": "a Python pickle",
    b"cposix\n": "a Python pickle",
}
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file.

    A pickle (.pth, .pt, .bin, .ckpt) can run any code when it is read, so it is refused by its first bytes, unread.

    Raises:
        WeightsError: no such file, another format, or a damaged one; names the file.
    """
    _require_safetensors(path)
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: damaged or incomplete ({error})") from error


def _require_safetensors(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(9)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    header_bytes = int.from_bytes(start[:8], "little")
    if len(start) == 9 and start[8:] == b"{" and 2 <= header_bytes <= min(_MAX_HEADER_BYTES, size - 8):
        return
    if not start:
        raise WeightsError(f"{path}: the file is empty")
    kind = describe_foreign(path)
    if kind is not None:
        raise WeightsError(
            f"{path}: {kind}, refused unread because reading one can run any code it holds;"
            " ask for the weights as .safetensors"
        )
    raise WeightsError(f"{path}: not a safetensors file, or a damaged one")


def describe_foreign(path: Path) -> str | None:
    """What a file of another format is, by its first bytes alone; None where they tell nothing."""
    with path.open("rb") as file:
        start = file.read(8)
    for first_bytes, kind in _FOREIGN.items():
        if start.startswith(first_bytes):
            return kind
    return None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors; two names may share memory.

    Raises:
        OSError: the file cannot be written (disk full, file too large, read-only).
    """
    # Contiguous: the format knows no strides. Cloned where memory is shared: it knows no views either.
    seen: set[int] = set()
    whole = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    path.touch()
    mode = path.stat().st_mode  # as the user's umask says; safetensors itself would let nobody else read the file
    try:
        safetensors.torch.save_file(whole, path)
        path.chmod(mode)
    except SafetensorError as error:
        raise OSError(str(error)) from error


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
