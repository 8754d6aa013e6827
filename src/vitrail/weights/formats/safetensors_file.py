"""safetensors: the header is judged before anything else is read, the tensors stay in the file's own memory."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from vitrail.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
MAX_TENSORS = 100_000  # the largest Vision Transformers have about a thousand
_MAX_DIMENSIONS = 16
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def looks_like_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes begins as safetensors does: the length of its header, then "{"."""
    header_bytes = int.from_bytes(start[:8], "little")
    return len(start) > 8 and start[8:9] == b"{" and 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The named tensors, mapped from the file: pages are read when they are used, and no copy is made.

    Raises:
        WeightsError: a damaged file, or a header that claims what the file does not hold.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            header = file.read(min(header_bytes, MAX_HEADER_BYTES))
        _require_honest(header, size - 8 - header_bytes, path)
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: damaged or incomplete ({error})") from error


def _require_honest(header: bytes, data_bytes: int, path: Path) -> None:
    # Every entry has a brace of its own, so the count is known before a hundred megabytes are parsed.
    if header.count(b"{") > MAX_TENSORS + 2:
        raise WeightsError(f"{path}: its header names more than {MAX_TENSORS:,} tensors; no checkpoint does, not read")
    try:
        entries = json.loads(header, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged or incomplete (its header: {error})") from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{path}: damaged or incomplete (its header is no table of tensors)")
    for name, entry in entries.items():
        if name != "__metadata__":
            problem = _problem(entry, data_bytes)
            if problem is not None:
                raise WeightsError(f"{path}: damaged or incomplete ('{name}': {problem})")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in table if names.count(name) > 1)}' is there twice")
    return table


def _problem(entry: object, data_bytes: int) -> str | None:
    if not isinstance(entry, dict):
        return "its entry is no table"
    dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BYTES:
        return f"of type {str(dtype)[:40]!r}, which is not read"
    if shape is None or offsets is None or len(offsets) != 2:
        return "its shape or its place in the file is not made of whole numbers"
    begin, end = offsets
    if not begin <= end <= data_bytes:
        return f"its numbers stand at bytes {begin:,} to {end:,}, and the file holds {data_bytes:,}"
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        return f"{end - begin:,} bytes for {dtype} {shape}"
    return None


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    return tuple(value) if all(type(item) is int and 0 <= item < 2**63 for item in value) else None
