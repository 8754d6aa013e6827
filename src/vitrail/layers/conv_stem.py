"""A convolutional stem: a few strided convolutions before the patch projection, for data too small for a plain ViT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.layers.initialization import lecun_normal_
from vitrail.layers.mlp import make_activation

# Of group norm, about. With 3 to 6 channels a group the norm took most of the stem's time on a CPU.
_CHANNELS_PER_GROUP = 16


class ConvStem(nn.Module):
    """Convolutions of 3x3 and stride 2, each with group norm and activation (Xiao et al. 2021, "Early convolutions
    help transformers see better"; group norm instead of batch norm, so that a picture does not depend on its
    neighbours in the batch).

    Args:
        in_channels: of the picture.
        widths: channels after each convolution; every one halves height and width.
        num_blocks: residual blocks of two 3x3 convolutions after each of them; (): none.
        activation: see `make_activation`.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], num_blocks: Sequence[int] = (), *, activation: str = "gelu"
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for width, blocks in zip(widths, num_blocks or [0] * len(widths), strict=True):
            stages.append(ConvNorm(in_channels, width, stride=2, activation=activation))
            stages.extend(ResidualBlock(width, activation=activation) for _ in range(blocks))
            in_channels = width
        self.layers = nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, widths[-1], height / 2^n, width / 2^n) for n widths."""
        return self.layers(images)


class ConvNorm(nn.Module):
    """A 3x3 convolution without bias, group norm, activation ("none": the identity)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        num_groups = math.gcd(out_channels, max(1, out_channels // _CHANNELS_PER_GROUP))
        self.norm = nn.GroupNorm(num_groups, out_channels)
        self.act = nn.Identity() if activation == "none" else make_activation(activation)

    def initialize(self, generator: torch.Generator | None) -> None:
        """LeCun normal kernel."""
        lecun_normal_(self.conv.weight, generator)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        return self.act(self.norm(self.conv(features)))


class ResidualBlock(nn.Module):
    """act(x + norm(conv(act(norm(conv(x)))))), shapes unchanged (He et al. 2016, the basic block)."""

    def __init__(self, width: int, *, activation: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width, stride=1, activation=activation)
        self.conv2 = ConvNorm(width, width, stride=1, activation="none")
        self.act = make_activation(activation)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width, height, width) -> the same shape."""
        return self.act(features + self.conv2(self.conv1(features)))
