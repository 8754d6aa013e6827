"""Files of tensors: the only reader of foreign bytes, and their writer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

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
