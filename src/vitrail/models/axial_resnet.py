"""The Axial-ResNet (Dosovitskiy et al. 2021, appendix D.6; Wang et al. 2020, "Axial-DeepLab", section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.axial_attention import PositionSensitiveAttention
from vitrail.layers.resnet_stem import ZeroInitGroupNorm
from vitrail.models.axial_resnet_config import AxialResNetConfig
from vitrail.models.resnet import Head, ResNet, Root, Stage, group_norm, standardized_conv
from vitrail.models.resnet_config import EXPANSION


class AxialResNet(ResNet):
    """A ResNet whose units attend along rows and columns. Pictures have the config's size: positions belong to it."""

    config: AxialResNetConfig

    def _build(self, config: AxialResNetConfig) -> None:  # type: ignore[override]  # its own kind of config alone
        self.stem = AxialRoot(config)
        self.stages = nn.ModuleList(Stage(_units(config, index)) for index in range(len(config.depths)))
        self.norm = nn.Identity()  # a unit ends with one
        self.head = Head(config.num_features, config.num_classes, config.head_bias_init)

    def _check(self, images: Tensor) -> None:
        super()._check(images)
        if tuple(images.shape[2:]) != self.config.image_size:
            raise ValueError(
                f"pictures of {images.shape[2]} x {images.shape[3]} pixels are not of the model's image_size "
                f"{self.config.image_size}: resize them, or build the model with theirs"
            )


class AxialRoot(Root):
    """A root with norm and ReLU between its convolution and its maximum."""

    def __init__(self, config: AxialResNetConfig) -> None:
        super().__init__(config)
        self.norm = group_norm(config, config.root_width)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, root_width, height / 4, width / 4)."""
        return self.pool(F.relu(self.norm(self.conv(images))))


def _units(config: AxialResNetConfig, index: int) -> Iterator[AxialUnit]:
    out_channels = EXPANSION * config.root_width * 2**index
    in_channels = config.root_width if index == 0 else out_channels // 2
    stride = 1 if index == 0 else 2
    rows, columns = (side // (4 * 2**index) for side in config.image_size)
    before = stride * rows, stride * columns
    yield AxialUnit(config, in_channels, out_channels, before, stride=stride, projects=True)
    for _ in range(config.depths[index] - 1):
        yield AxialUnit(config, out_channels, out_channels, (rows, columns))


class AxialUnit(nn.Module):
    """relu(shortcut + norm(1x1(relu(mean over stride(columns(rows(relu(norm(1x1(x)))))))))).

    Args:
        grid: (rows, columns) of what comes in.
        stride: rows and columns that one of the result stands for.
        projects: whether the shortcut is norm(1x1(x)), and not x.
    """

    def __init__(
        self,
        config: AxialResNetConfig,
        in_channels: int,
        out_channels: int,
        grid: tuple[int, int],
        *,
        stride: int = 1,
        projects: bool = False,
    ) -> None:
        super().__init__()
        middle, eps = out_channels // 2, config.group_norm_eps
        self.downsample = (
            nn.Sequential(
                standardized_conv(config, in_channels, out_channels, 1, stride), group_norm(config, out_channels)
            )
            if projects
            else None
        )
        self.conv1 = standardized_conv(config, in_channels, middle, 1)
        self.norm1 = group_norm(config, middle)
        self.rows = PositionSensitiveAttention(middle, config.num_heads, grid[1], axis="rows", eps=eps)
        self.columns = PositionSensitiveAttention(middle, config.num_heads, grid[0], axis="columns", eps=eps)
        self.pool = nn.AvgPool2d(stride)
        self.conv2 = standardized_conv(config, middle, out_channels, 1)
        # A scale of zero at first, so that a new unit is its shortcut.
        self.norm2 = ZeroInitGroupNorm(config.num_groups, out_channels, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, rows, columns) -> (batch, out_channels, rows / stride, columns / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        inner = F.relu(self.norm1(self.conv1(features)))
        inner = F.relu(self.pool(self.columns(self.rows(inner))))
        return F.relu(shortcut + self.norm2(self.conv2(inner)))
