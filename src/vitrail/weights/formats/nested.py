"""Dictionaries inside dictionaries, as training scripts save them, laid flat."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from vitrail.errors import WeightsError

Value = str | int | float | bool
# Real checkpoints nest about five deep and hold some ten thousand things; a few bytes can claim far more.
_MAX_DEPTH = 32
_MAX_NODES = 2_000_000
_MAX_NAME = 1000


def _itself(node: object) -> object:
    return node


def flatten(
    tree: object, where: str, opened: Callable[[object], object] = _itself
) -> tuple[dict[str, Tensor], dict[str, Value]]:
    """The tensors and the plain values of a tree, names joined with "/": "model/blocks.0.norm1.weight", "args/lr".

    Lists and tuples count as dictionaries with the names 0, 1, ...; what is neither tensor, string nor number is left
    out.

    Args:
        where: for messages.
        opened: what to take in place of a node.
    Raises:
        WeightsError: two tensors of one name, a tensor that is no plain array, or a tree that is too deep or too large.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Value] = {}
    # Own stack and own limits: a file can nest as deep as it likes, or hold itself.
    todo: list[tuple[str, object, int]] = [("", tree, 0)]
    num_nodes = 1
    while todo:
        name, node, depth = todo.pop()
        node = opened(node)
        if isinstance(node, Tensor):
            if name in tensors:
                raise WeightsError(f"{where}: two tensors are named '{name}'")
            tensors[name] = _plain(node, name, where)
        elif (value := _value(node)) is not None:
            values[name] = value
        elif children := _children(node):
            num_nodes += len(children)
            if depth == _MAX_DEPTH or num_nodes > _MAX_NODES:
                raise WeightsError(
                    f"{where}: it nests more than {_MAX_DEPTH} deep, or holds more than {_MAX_NODES:,} things:"
                    " no checkpoint does, it is damaged or made to exhaust the memory"
                )
            named = [(_name(name, key, where), child, depth + 1) for key, child in children.items()]
            todo += reversed(named)
    return tensors, values


def _name(above: str, key: object, where: str) -> str:
    name = f"{above}/{key}" if above else str(key)
    if len(name) > _MAX_NAME:
        raise WeightsError(f"{where}: damaged, a name in it has more than {_MAX_NAME:,} letters ({name[:40]!r}...)")
    return name


def _plain(tensor: Tensor, name: str, where: str) -> Tensor:
    if tensor.is_sparse or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
        raise WeightsError(
            f"{where}: '{name}' is a sparse, quantized or otherwise special tensor ({tensor.dtype},"
            f" {tensor.device.type}); save it as a plain one: tensor.dequantize() or tensor.to_dense()"
        )
    return tensor.detach()


def _value(node: object) -> Value | None:
    if isinstance(node, np.generic):
        node = node.item()
    if isinstance(node, str | int | float | bool):
        return node
    if isinstance(node, PurePath):
        return str(node)
    return None


def _children(node: object) -> Mapping[Any, object]:
    if isinstance(node, Mapping):
        return node
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return vars(node) if isinstance(node, argparse.Namespace) else {}
