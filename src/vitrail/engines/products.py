"""oneDNN's matrix products with packed weights, and attention by our own kernel, as operators that torch.compile calls
and does not look into.

torch's own way packs only what `freezing` has made constants of one graph: compiling ViT-B/16 then takes a minute,
nothing of it is kept for the next process, and every block is compiled by itself. Here a block's code knows its weights
by a ticket, an ordinary tensor of one number, so one code serves all blocks and stays in the compiler's cache.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.training.block_kernels import block_kernels


@dataclass(frozen=True)
class Int8Weights:
    """What a product of bytes and 8-bit weights needs besides the bytes: N features out.

    `scale` (N,) is the input's step times each weight row's, `bias` (N,) of the result. The bytes' own zero is at
    `input_zero`. Where the answer is bytes again they stand for (byte - output_zero) * output_step.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor
    input_zero: int
    output_step: float = 1.0
    output_zero: int = 0
    weight_zeros: Tensor = field(init=False)  # oneDNN asks for them

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_zeros", torch.zeros(len(self.scale), dtype=torch.int32))


# Weights in oneDNN's own layout, which the compiler's cache would refuse; and steps, which would make each block's code
# its own.
_DEPOSITED: dict[int, Any] = {}
_numbers = itertools.count()
_LIBRARY = torch.library.Library("vitrail", "DEF")
_LIBRARY.define("linear(Tensor features, Tensor ticket, Tensor? bias, int size, str unary, str algorithm) -> Tensor")
_LIBRARY.define(
    "int8_linear(Tensor features, Tensor ticket, int size, ScalarType dtype, str unary, str algorithm) -> Tensor"
)
_LIBRARY.define("attention(Tensor qkv, int num_heads) -> Tensor")


def deposit(owner: nn.Module, weights: Tensor | Int8Weights) -> Tensor:
    """A ticket, (1,) int64, for weights that are kept as long as their owner is."""
    number = next(_numbers)
    _DEPOSITED[number] = weights
    weakref.finalize(owner, _DEPOSITED.pop, number, None)
    return torch.tensor([number])


def _linear(features: Tensor, ticket: Tensor, bias: Tensor | None, size: int, unary: str, algorithm: str) -> Tensor:
    packed = _DEPOSITED[int(ticket)]
    return torch.ops.mkldnn._linear_pointwise(features, packed, bias, unary, [], algorithm)


def _linear_shape(
    features: Tensor, ticket: Tensor, bias: Tensor | None, size: int, unary: str, algorithm: str
) -> Tensor:
    return features.new_empty((*features.shape[:-1], size))


def _int8_linear(features: Tensor, ticket: Tensor, size: int, dtype: torch.dtype, unary: str, algorithm: str) -> Tensor:
    weights = _DEPOSITED[int(ticket)]
    return torch.ops.onednn.qlinear_pointwise(
        features, 1.0, weights.input_zero, weights.packed, weights.scale, weights.weight_zeros, weights.bias,
        weights.output_step, weights.output_zero, dtype, unary, [], algorithm,
    )  # fmt: skip


def _int8_linear_shape(
    features: Tensor, ticket: Tensor, size: int, dtype: torch.dtype, unary: str, algorithm: str
) -> Tensor:
    return features.new_empty((*features.shape[:-1], size), dtype=dtype)


def _attention(qkv: Tensor, num_heads: int) -> Tensor:
    kernels = block_kernels()
    assert kernels is not None
    assert qkv.dtype == torch.bfloat16
    return kernels.attend(qkv.contiguous(), num_heads)


def _attention_shape(qkv: Tensor, num_heads: int) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


_LIBRARY.impl("linear", _linear, "CPU")
_LIBRARY.impl("int8_linear", _int8_linear, "CPU")
torch.library.register_fake("vitrail::linear", _linear_shape, lib=_LIBRARY)
torch.library.register_fake("vitrail::int8_linear", _int8_linear_shape, lib=_LIBRARY)
_LIBRARY.impl("attention", _attention, "CPU")
torch.library.register_fake("vitrail::attention", _attention_shape, lib=_LIBRARY)
