"""The reference's random initialisers, each a pure function of its generator (Dosovitskiy et al. 2021, Flax code)."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Standard deviation of a unit normal cut at +-2: drawing with sigma / 0.8796 gives the cut normal the wanted sigma.
TRUNCATED_NORMAL_STD = 0.87962566103423978


@runtime_checkable
class Initializable(Protocol):
    """A layer that fills the parameters it owns itself, leaving those of the layers inside it to them."""

    def initialize(self, generator: torch.Generator | None) -> None: ...


def initialize_layers(root: nn.Module, generator: torch.Generator | None) -> None:
    """Fill every layer below root in the order of registration; norms start as the identity."""
    for module in root.modules():
        if module is root:
            continue
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
        elif isinstance(module, Initializable):
            module.initialize(generator)


def lecun_normal_(weight: Tensor, generator: torch.Generator | None) -> None:
    """Normal of variance 1 / fan_in, cut at two standard deviations, corrected for the cut (Flax `lecun_normal`).

    Args:
        weight: (out, in) of a Linear or (out, in, height, width) of a convolution; filled in place.
    """
    fan_in = weight[0].numel()
    std = math.sqrt(1.0 / fan_in) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def xavier_uniform_(weight: Tensor, generator: torch.Generator | None, *, num_kernels: int = 1) -> None:
    """Xavier uniform of (num_kernels * out, in), in place; each of the stacked kernels gets the limit of its own shape.

    A fused (3D, D) query-key-value matrix is three (D, D) kernels: its limit is sqrt(6 / 2D), not sqrt(6 / 4D).
    """
    for kernel in weight.detach().chunk(num_kernels, dim=0):
        nn.init.xavier_uniform_(kernel, generator=generator)


def zero_bias_(layer: nn.Linear | nn.Conv2d) -> None:
    """Set the bias, where there is one, to zero."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
