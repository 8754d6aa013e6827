"""torch.save's formats, read by torch's own restricted reader: tensors, plain containers and numbers, nothing else."""

from __future__ import annotations

import argparse
import pathlib
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.formats.nested import Value, flatten
from vitrail.weights.formats.npz_file import require_sound_zip

_SCALAR = np.float32(0).__reduce__()[0]
# Not code, but seen in published checkpoints beside the tensors: the arguments of the script, and numbers of numpy.
_PLAIN: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
    (np.dtype, "numpy.dtype"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *[type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "U1")],
]
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")
_CHUNK = 1 << 22
_WAY_OUT = (
    'state = torch.load(FILE, map_location="cpu", weights_only=False); '
    'safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, "x.safetensors")'
)


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Value]]:
    """The tensors of a torch.save file, mapped from it where its format allows, and the plain values beside them.

    Raises:
        WeightsError: damaged, or something in it needs code to be read; says what it wanted to import.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _require_sound(path)
        with torch.serialization.safe_globals(_PLAIN):
            tree = _load(path, is_zip)
    except WeightsError:
        raise
    except Exception as error:  # torch's reader answers damaged bytes with whatever they set off
        raise _explained(error, path) from error
    tensors, values = flatten(tree, str(path))
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:
            raise WeightsError(
                f"{path}: damaged, '{name}' claims to be {tensor.dtype} {tuple(tensor.shape)}, more than the file holds"
            )
    return tensors, values


def _load(path: Path, is_zip: bool) -> object:
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    with path.open("rb") as file:  # torch would believe the name, were it told
        return torch.load(file, map_location="cpu", weights_only=True)


def _require_sound(path: Path) -> None:
    """The archive's directory makes sense, and what it holds has the checksums it was written with."""
    with zipfile.ZipFile(path) as archive:
        require_sound_zip(archive, path.stat().st_size, path)
        for member in archive.infolist():
            if member.CRC == 0:  # torch can be told not to compute them, and writes zeros then
                continue
            with archive.open(member) as file:
                while file.read(_CHUNK):  # raises BadZipFile at the end where the checksum is another
                    pass


def _explained(error: Exception, path: Path) -> WeightsError:
    match = _REFUSED.search(str(error))
    if match is not None:
        return needs_code(path, match[1] or match[2], _WAY_OUT)
    if isinstance(error, zipfile.BadZipFile | zlib.error | OSError | EOFError):
        return WeightsError(f"{path}: damaged or incomplete ({error})")
    reason = str(error).split("\n")[0][:200] or type(error).__name__
    return WeightsError(f"{path}: damaged, or more than tensors: torch's restricted reader refuses it ({reason})")


def needs_code(path: Path, symbol: str, way_out: str) -> WeightsError:
    """The refusal of a pickle that holds more than numbers, with the way out."""
    return WeightsError(
        f"{path}: a Python pickle that wants to import and run '{symbol}', refused: reading it could do anything to"
        f" this machine. If you trust it, convert it where it was made, with its own code at hand: {way_out}"
    )
