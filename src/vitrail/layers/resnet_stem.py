"""The ResNet in front of a hybrid's blocks: post-activation, group norm, standardised convolutions.

Dosovitskiy et al. 2021, section 3.1 ("Hybrid architecture"), as vision_transformer computes it; names follow timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.std_conv import MaxPoolSame, StandardizedConv2d

Numerics = Literal["google", "timm"]

NUM_GROUPS = 32
_EXPANSION = 4  # channels of a unit's result for one of its middle


class ResNetRoot(nn.Module):
    """7x7 convolution of stride 2, norm, ReLU, 3x3 maximum of stride 2: a quarter of height and width.

    Args:
        in_channels: of the picture.
        width: channels of the result; 32 divides it.
        numerics: see `ResNetStem`.
    """

    def __init__(self, in_channels: int, width: int, *, numerics: Numerics = "google") -> None:
        super().__init__()
        make_conv, make_norm = _layers(numerics)
        self.conv = make_conv(in_channels, width, 7, stride=2)
        self.norm = make_norm(width)
        self.pool = MaxPoolSame(3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, width, height / 4, width / 4)."""
        return self.pool(F.relu(self.norm(self.conv(images))))


class ResNetStem(nn.Module):
    """A root and stages of bottleneck units; every stage but the first halves height and width.

    Args:
        in_channels: of the picture.
        width: channels of the root, 64 for a ResNet of width factor 1; stage i gives 4 * width * 2^i.
        num_units: of each stage, as (3, 4, 6, 3).
        numerics: "google": kernels (w - mean) / (std + 1e-5) and group norms of epsilon 1e-6, as vision_transformer has
            them; "timm": (w - mean) / sqrt(var + 1e-8) and 1e-5.
    """

    def __init__(
        self, in_channels: int, width: int, num_units: Sequence[int], *, numerics: Numerics = "google"
    ) -> None:
        super().__init__()
        self.stem = ResNetRoot(in_channels, width, numerics=numerics)
        stages: list[nn.Module] = []
        channels = width
        for index, units in enumerate(num_units):
            middle = width * 2**index
            stages.append(ResNetStage(channels, middle, units, stride=1 if index == 0 else 2, numerics=numerics))
            channels = _EXPANSION * middle
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, channels, height / s, width / s), s = 2 * 2^stages."""
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        return features


class ResNetStage(nn.Module):
    """Units in a row, of which the first has the stride and a shortcut with a convolution."""

    def __init__(self, in_channels: int, middle: int, num_units: int, *, stride: int, numerics: Numerics) -> None:
        super().__init__()
        first = BottleneckUnit(in_channels, middle, stride=stride, projects=True, numerics=numerics)
        out_channels = _EXPANSION * middle
        rest = (BottleneckUnit(out_channels, middle, numerics=numerics) for _ in range(num_units - 1))
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, 4 * middle, height / stride, width / stride)."""
        return self.blocks(features)


class BottleneckUnit(nn.Module):
    """relu(shortcut + norm(1x1(relu(norm(3x3(relu(norm(1x1(x)))))))), with the stride on the 3x3 (He et al. 2016).

    The last norm starts with a scale of zero, so that a new unit is its shortcut.
    """

    def __init__(
        self, in_channels: int, middle: int, *, stride: int = 1, projects: bool = False, numerics: Numerics = "google"
    ) -> None:
        super().__init__()
        make_conv, make_norm = _layers(numerics)
        out_channels = _EXPANSION * middle
        self.downsample = Shortcut(in_channels, out_channels, stride=stride, numerics=numerics) if projects else None
        self.conv1 = make_conv(in_channels, middle, 1)
        self.norm1 = make_norm(middle)
        self.conv2 = make_conv(middle, middle, 3, stride=stride)
        self.norm2 = make_norm(middle)
        self.conv3 = make_conv(middle, out_channels, 1)
        self.norm3 = ZeroInitGroupNorm(NUM_GROUPS, out_channels, eps=self.norm2.eps)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, 4 * middle, height / stride, width / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.norm1(self.conv1(features)))
        features = F.relu(self.norm2(self.conv2(features)))
        return F.relu(shortcut + self.norm3(self.conv3(features)))


class Shortcut(nn.Module):
    """norm(1x1(x)), where a unit changes the shape."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, numerics: Numerics) -> None:
        super().__init__()
        make_conv, make_norm = _layers(numerics)
        self.conv = make_conv(in_channels, out_channels, 1, stride=stride)
        self.norm = make_norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        return self.norm(self.conv(features))


class ZeroInitGroupNorm(nn.GroupNorm):
    """A group norm that starts with a scale of zero (Goyal et al. 2017, section 5.1)."""

    def reset_parameters(self) -> None:
        """Scale and shift of zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def _layers(numerics: Numerics) -> tuple[Callable[..., StandardizedConv2d], Callable[[int], nn.GroupNorm]]:
    """Makers of the convolutions and the norms."""
    if numerics == "timm":
        return partial(StandardizedConv2d, eps=1e-8, eps_under="variance"), partial(nn.GroupNorm, NUM_GROUPS, eps=1e-5)
    return StandardizedConv2d, partial(nn.GroupNorm, NUM_GROUPS, eps=1e-6)
