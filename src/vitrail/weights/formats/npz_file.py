"""npz, as numpy.savez writes it: the directory and each array's header are judged before any number is read."""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.formats.nested import Value

MAX_MEMBERS = 100_000
# Trained weights hardly shrink; a head of zeros does, a thousandfold.
_MAX_RATIO, _FREE_BYTES = 50, 100_000_000
_MAX_ARRAY_HEADER = 10_000
_CHUNK = 1 << 20
# What damaged bytes set off in zipfile and zlib, and in numpy's reader of headers.
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, IndexError,
              RuntimeError, MemoryError, OverflowError)  # fmt: skip
_HEADER_DAMAGE = (TypeError, SyntaxError, AttributeError, tokenize.TokenError)


def require_sound_zip(archive: zipfile.ZipFile, size: int, path: Path) -> None:
    """Refuse an archive that claims to hold much more than its bytes can.

    Raises:
        WeightsError: too many members, two of one name, an encrypted one, or sizes that do not fit the file.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise WeightsError(f"{path}: it claims to hold {len(members):,} arrays; no checkpoint does, not read")
    names = {member.filename for member in members}
    if len(names) != len(members):
        raise WeightsError(f"{path}: damaged, it holds two members of one name")
    packed, unpacked = sum(m.compress_size for m in members), sum(m.file_size for m in members)
    if packed > size or unpacked > _FREE_BYTES + _MAX_RATIO * size:
        raise WeightsError(f"{path}: its {size:,} bytes claim to unpack to {unpacked:,}: damaged or made to do harm")
    for member in members:
        if member.flag_bits & 0x1:
            raise WeightsError(f"{path}: '{member.filename}' is encrypted; save it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(f"{path}: '{member.filename}' is packed in a way numpy does not write; use numpy.savez")


def read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Value]]:
    """The named arrays; single strings go to the values.

    bfloat16, which numpy has not got and writes as two nameless bytes, becomes torch.bfloat16.

    Raises:
        WeightsError: a damaged file, arrays of Python objects, or claims that do not fit the file.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Value] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            require_sound_zip(archive, path.stat().st_size, path)
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                where = f"{path}: '{name}'"
                with archive.open(member) as file:
                    array = _read_array(file, member.file_size, where)
                if array.dtype.kind == "U":
                    if array.ndim == 0:
                        values[name] = str(array)
                else:
                    tensors[name] = tensor_of(array, where)
    except WeightsError:
        raise
    except (*ZIP_DAMAGE, *_HEADER_DAMAGE) as error:
        raise WeightsError(f"{path}: damaged or incomplete ({error})") from error
    return tensors, values


def _read_array(file: IO[bytes], size: int, where: str) -> npt.NDArray[np.generic]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        raise WeightsError(f"{where}: version {version} of numpy's format, which is not read")
    with warnings.catch_warnings():  # that a header was written by Python 2: what numpy makes of it is judged below
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran_order, dtype = read_header(file, max_header_size=_MAX_ARRAY_HEADER)
    require_numbers(dtype, where)
    if any(length < 0 for length in shape):
        raise WeightsError(f"{where}: damaged, of shape {shape}")
    data_bytes = math.prod(shape) * dtype.itemsize
    if data_bytes > size:
        raise WeightsError(f"{where}: its header claims {dtype} {shape}, {data_bytes:,} bytes, and it holds {size:,}")
    data = np.empty(data_bytes, np.uint8)
    filled = 0
    while chunk := file.read(_CHUNK):
        if filled + len(chunk) > data_bytes:
            raise WeightsError(f"{where}: damaged, it holds more than {dtype} {shape}")
        data[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    if filled != data_bytes:
        raise WeightsError(f"{where}: damaged, it ends after {filled:,} of {data_bytes:,} bytes")
    return array_of(data, dtype, shape, fortran_order)


def array_of(
    data: npt.NDArray[np.uint8], dtype: np.dtype[np.generic], shape: Sequence[int], fortran_order: bool
) -> npt.NDArray[np.generic]:
    """Bytes as an array of that type and shape, of the same memory."""
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return data.view(dtype).reshape(shape, order="F" if fortran_order else "C")


def require_numbers(dtype: np.dtype[np.generic], where: str) -> None:
    """Raises WeightsError for arrays of Python objects, which need code to be read, and of other things no tensor is
    made of."""
    if dtype.hasobject:
        raise WeightsError(
            f"{where}: an array of Python objects, refused unread because reading one can run any code it holds;"
            " save plain arrays where it was made: numpy.savez(file, **{name: numpy.asarray(value, 'float32')})"
        )
    if dtype.names is None and dtype.subdtype is None:
        if dtype.kind in "biu" or dtype.kind == "U" or (dtype.kind == "f" and dtype.itemsize <= 8):
            return
        if dtype.kind == "V" and dtype.itemsize == 2:
            return
    raise WeightsError(f"{where}: an array of {dtype}, which no weights are; save it as float32")


def tensor_of(array: npt.NDArray[np.generic], where: str) -> Tensor:
    """The array as a tensor, in this machine's byte order; two nameless bytes are a bfloat16."""
    require_numbers(array.dtype, where)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "V":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
