"""From pictures to patches and back, and the embedding that turns a picture into tokens."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.initialization import lecun_normal_, zero_bias_

PatchResampleMethod = Literal["bilinear", "bicubic", "bicubic_antialias"]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut pictures into flat patches (Dosovitskiy et al. 2021, section 3.1).

    Args:
        images: (batch, channels, height, width).
        patch_size: pixels; divides height and width.

    Returns:
        (batch, patches, patch_size * patch_size * channels): patches in raster order, each flat in (row, column,
        channel) order.

    Raises:
        ValueError: patch_size does not divide a side.
    """
    batch, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"patch_size {patch_size} does not divide the picture's {height} x {width} pixels")
    grid_height, grid_width = height // patch_size, width // patch_size
    cells = images.reshape(batch, channels, grid_height, patch_size, grid_width, patch_size)
    cells = cells.permute(0, 2, 4, 3, 5, 1)  # (batch, grid row, grid column, row, column, channel)
    return cells.reshape(batch, grid_height * grid_width, patch_size * patch_size * channels)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`.

    Args:
        patches: (batch, grid height * grid width, patch_size * patch_size * channels).
        patch_size: pixels.
        grid: (height, width) in patches.

    Returns:
        (batch, channels, height, width).

    Raises:
        ValueError: the number of patches, or of values in one, does not fit.
    """
    batch, num_patches, values = patches.shape
    grid_height, grid_width = grid
    if num_patches != grid_height * grid_width:
        raise ValueError(f"{num_patches} patches do not fill a grid of {grid_height} x {grid_width}")
    if values % (patch_size * patch_size):
        raise ValueError(f"a patch of {values} values is no multiple of {patch_size} x {patch_size} pixels")
    cells = patches.reshape(batch, grid_height, grid_width, patch_size, patch_size, -1)
    cells = cells.permute(0, 5, 1, 3, 2, 4)  # (batch, channel, grid row, row, grid column, column)
    return cells.reshape(batch, -1, grid_height * patch_size, grid_width * patch_size)


class PatchEmbed(nn.Module):
    """A linear projection of every patch, as a convolution whose stride is its kernel.

    Args:
        in_channels: of what the projection sees: the picture's, or the backbone's where there is one.
        width: features of a token.
        patch_size: kernel and stride of the projection; with a backbone, in cells of its feature map.
        norm_eps: puts a norm before the projection, over each flat patch, and one behind it, as vit-pytorch has them;
            None: neither. Does not go with a backbone.
        backbone: network from (batch, channels, height, width) to a smaller feature map, before the projection.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        patch_size: int,
        *,
        norm_eps: float | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        values = in_channels * patch_size * patch_size
        self.patch_norm = None if norm_eps is None else nn.LayerNorm(values, eps=norm_eps)
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)

    def initialize(self, generator: torch.Generator | None) -> None:
        """LeCun normal kernel, zero bias."""
        lecun_normal_(self.proj.weight, generator)
        zero_bias_(self.proj)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, patches, width), patches in raster order."""
        if self.patch_norm is not None:
            patches = self.patch_norm(patchify(images, self.proj.kernel_size[0]))
            # The kernel in the order of a flat patch: row, column, channel.
            kernel = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
            return self.norm(F.linear(patches, kernel, self.proj.bias))
        features = images if self.backbone is None else self.backbone(images)
        return self.proj(features).flatten(2).transpose(1, 2)
