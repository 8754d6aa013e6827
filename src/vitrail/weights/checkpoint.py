"""A checkpoint as it was found: tensors under their own names, before anyone has said what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

Container = Literal["safetensors", "npz", "torch", "paddle"]
QueryScale = Literal["head", "width"]


@dataclass(frozen=True)
class Choices:
    """What a caller says of weights where the files do not, or not rightly; None: taken from the files."""

    family: str | None = None  # a name of `ADAPTERS`: no recognition by keys
    num_heads: int | None = None
    query_scale: QueryScale | None = None  # vit-pytorch: queries scaled by head_dim ** -0.5, or by width ** -0.5
    image_size: tuple[int, int] | None = None  # of a position table that could be several rectangles
    prefix: str | None = None  # npz and nested checkpoints: the tree to take ("params/img/", "teacher/")
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a file or a folder holds.

    Attributes:
        where: for messages: the file or repository.
        name: file stem or repository name, a hint at most.
        container: how the tensors were stored.
        tensors: by name; dictionaries inside dictionaries are joined with "/" ("model/blocks.0.norm1.weight").
        values: strings, numbers and booleans beside the tensors, joined likewise ("args/arch"); a hint at most.
        files: JSON files beside the weights, parsed: "config.json", "preprocessor_config.json".
        choices: what the caller said.
    """

    where: str
    name: str
    container: Container
    tensors: Mapping[str, Tensor]
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None where there is none of that name."""
        tensor = self.tensors.get(name)
        return None if tensor is None else tuple(tensor.shape)

    def count(self, pattern: str) -> int:
        """How many of pattern.format(0), pattern.format(1), ... are tensors, counted from 0 without a gap."""
        number = 0
        while pattern.format(number) in self.tensors:
            number += 1
        return number


def open_checkpoint(path: Path, choices: Choices | None = None, where: str | None = None) -> Checkpoint:
    """What a weights file, or a folder with one and its config, holds. Nothing in it is run.

    Args:
        path: .safetensors, .npz, .pth, .pt, .bin, .pdparams; or a folder with such a file, as a hub repository is.
        where: for messages, in place of the path.
    Raises:
        WeightsError: nothing there, or a file that is damaged or cannot be trusted.
    """
    files: dict[str, dict[str, Any]] = {}
    file = path
    if path.is_dir():
        file = next(path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists())
        for name in ("config.json", "preprocessor_config.json"):
            if (path / name).exists():
                files[name] = json.loads((path / name).read_bytes())
    container: Container
    values: dict[str, str | int | float | bool] = {}
    tensors: dict[str, Tensor] = {}
    if file.suffix == ".safetensors":
        container, tensors = "safetensors", safetensors.torch.load_file(file)
    elif file.suffix == ".npz":
        container = "npz"
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    else:
        container = "torch"
        _flatten(torch.load(file, map_location="cpu", weights_only=True, mmap=True), "", tensors, values)
    return Checkpoint(where or str(path), path.stem, container, tensors, values, files, choices or Choices())


def _flatten(tree: Any, prefix: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            _flatten(value, f"{prefix}{name}/", tensors, values)
        elif isinstance(value, str | int | float | bool):
            values[f"{prefix}{name}"] = value
