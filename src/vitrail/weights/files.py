"""Files of tensors: the only reader of foreign bytes, and their writer. What a file is, its bytes say, not its name."""

from __future__ import annotations

import os
import string
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.formats.nested import Value
from vitrail.weights.formats.npz_file import ZIP_DAMAGE, read_npz
from vitrail.weights.formats.paddle_file import read_paddle
from vitrail.weights.formats.safetensors_file import looks_like_safetensors, read_safetensors
from vitrail.weights.formats.torch_file import read_torch

Container = Literal["safetensors", "npz", "torch", "paddle"]

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
# First bytes -> what a file of weights is that is not read, and what to do instead.
_UNREAD = {
    b"\x89HDF": "an HDF5 file, as Keras and TensorFlow write: export its arrays with numpy.savez(file, **arrays)",
    b"GGUF": "a GGUF file, whose weights are quantized for language models: take the original weights",
    b"\x93NUMPY": "a single NumPy array: save all of them in one file with numpy.savez(file, **arrays)",
    b"\x1f\x8b": "a gzip archive: unpack it first (gunzip, or tar xzf)",
    b"BZh": "a bzip2 archive: unpack it first (bunzip2, or tar xjf)",
    b"\xfd7zXZ": "an xz archive: unpack it first (unxz, or tar xJf)",
    b"\x28\xb5\x2f\xfd": "a zstandard archive: unpack it first (unzstd)",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before zip, pickled
_START = 512


@dataclass(frozen=True)
class WeightsFile:
    """What one file holds: tensors by name, and strings, numbers and booleans beside them."""

    container: Container
    tensors: dict[str, Tensor]
    values: dict[str, Value] = field(default_factory=dict)


def read_weights(path: Path) -> WeightsFile:
    """The tensors of a weights file of any public format that can be read without running code.

    safetensors, npz, torch.save (zip or older) and pickled dictionaries of arrays (PaddlePaddle's .pdparams).
    Dictionaries inside dictionaries are joined with "/".

    Raises:
        WeightsError: another format, or a file that is damaged or cannot be trusted; names the file and what to do.
    """
    start, size = _start_of(path)
    if looks_like_safetensors(start, size):
        return WeightsFile("safetensors", read_safetensors(path))
    if start.startswith(b"PK"):
        container = _kind_of_zip(path)
        return WeightsFile(container, *(read_npz(path) if container == "npz" else read_torch(path)))
    if start.startswith(_LEGACY_TORCH):
        return WeightsFile("torch", *read_torch(path))
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return WeightsFile("paddle", *read_paddle(path))
    raise WeightsError(f"{path}: {_what_it_is(start, path)}")


def _start_of(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise WeightsError(f"{path}: the file is empty; download it again")
    return start, size


def _kind_of_zip(path: Path) -> Literal["npz", "torch"]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_DAMAGE as error:
        raise WeightsError(
            f"{path}: damaged or incomplete, a zip archive, as torch.save and numpy.savez write, whose directory is"
            f" missing or wrong ({error}); download or copy it again"
        ) from error
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        raise WeightsError(
            f"{path}: a TorchScript archive, a program with its weights, refused unread because loading one runs"
            " what it holds; save its weights where it was made: torch.save(module.state_dict(), FILE)"
        )
    if "data.pkl" in inside:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in names:
        raise WeightsError(f"{path}: a Keras model; export its arrays with numpy.savez(file, **arrays)")
    shown = ", ".join(sorted(names)[:3])[:200] or "nothing"
    raise WeightsError(
        f"{path}: a zip archive, but none that torch.save or numpy.savez writes (it holds {shown}); if it holds"
        " weights, unpack it and give the file, or ask for .safetensors"
    )


def _what_it_is(start: bytes, path: Path) -> str:
    """What an unreadable file is, in plain words, and what to do next."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, a note of where the weights are, not the weights; get them with: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page saved as weights; the link leads to a page about the file: download the file itself"
    for first_bytes, kind in _UNREAD.items():
        if start.startswith(first_bytes):
            return f"{kind}. Only safetensors, npz, torch.save and .pdparams are read"
    if start.startswith((b"(", b"cos\n", b"cposix\n", b"}q", b"]q")):
        return (
            "a Python pickle of an old protocol, refused unread: reading one can run any code it holds; convert it"
            " where it was made to .safetensors or .npz"
        )
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a")):
        return "an ONNX graph, a program with its weights; take the checkpoint it was exported from"
    if path.suffix == ".msgpack" or (0x81 <= start[0] <= 0x8F and start[1:2] >= b"\xa0") or start[0] in (0xDE, 0xDF):
        return "a MessagePack file, as Flax writes; save it with numpy.savez(file, **flat_dict) or take .safetensors"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model; take the checkpoint it was exported from"
    if all(chr(byte) in string.printable for byte in start):
        shown = start[:60].decode("ascii").split("\n")[0]
        return f"a text file, not weights (it starts with {shown!r})"
    return (
        "damaged, or of a format that is not read (safetensors, npz, torch.save and .pdparams are); download it again,"
        " or convert it where it was made"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file.

    A pickle (.pth, .pt, .bin, .ckpt) can run any code when it is read, so it is refused by its first bytes, unread.

    Raises:
        WeightsError: no such file, another format, or a damaged one; names the file.
    """
    start, size = _start_of(path)
    if looks_like_safetensors(start, size):
        return read_safetensors(path)
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
        safetensors.torch.save_file(whole, path, metadata={"format": "pt"})  # transformers 4 reads no other
        path.chmod(mode)
    except SafetensorError as error:
        raise OSError(str(error)) from error
