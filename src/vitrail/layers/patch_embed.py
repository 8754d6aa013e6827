"""From pictures to patches and back, and the embedding that turns a picture into tokens."""

from __future__ import annotations

from typing import Literal, get_args

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


def resample_patch_embedding(kernel: Tensor, to_size: int, method: PatchResampleMethod = "bilinear") -> Tensor:
    """Make a patch kernel for patches of another size, by the pseudo-inverse of the resize.

    Beyer et al. 2023, "FlexiViT: One model for all patch sizes", section 3.4: with B the linear resize of a patch, the
    new kernel is pinv(B^T) w, so that <B x, new> = <x, w> for every patch x where the patches grow. Where they shrink
    it is the best such kernel for patches of white noise.

    Args:
        kernel: (width, channels, size, size).
        to_size: side of the new kernel, in pixels.
        method: of the resize, with half-pixel centres: "bilinear" as big_vision, "bicubic_antialias" as timm.

    Returns:
        (width, channels, to_size, to_size) in the kernel's dtype; the kernel itself where the sizes are equal.

    Raises:
        ValueError: an empty size, a kernel that is not square, or an unknown method.
    """
    if method not in get_args(PatchResampleMethod):
        raise ValueError(f"patch resampling method {method!r} is none of {', '.join(get_args(PatchResampleMethod))}")
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(f"a patch kernel of shape {tuple(kernel.shape)} is not (width, channels, size, size)")
    if to_size < 1:
        raise ValueError(f"a patch of {to_size} pixels is empty")
    size = kernel.shape[2]
    if size == to_size:
        return kernel
    # The resize treats rows and columns alike, so B is A (x) A with A the resize of one line, and its pseudo-inverse is
    # that of A on both sides: a matrix of size x size to invert in place of size^2 x size^2.
    # Columns of an identity are resized, not single lines: torch's antialiased resize of one column is wrong.
    columns = torch.eye(size, dtype=torch.float64, device=kernel.device)[None, None]
    mode, _, antialias = method.partition("_")
    resized = F.interpolate(columns, size=(to_size, size), mode=mode, align_corners=False, antialias=bool(antialias))
    inverse = torch.linalg.pinv(resized[0, 0].t())  # (to_size, size)
    return (inverse @ kernel.double() @ inverse.t()).to(kernel.dtype)


def adapt_input_channels(kernel: Tensor, channels: int) -> Tensor:
    """Make an input kernel for pictures of another number of channels, as timm does.

    One channel: the sum, so that a grey picture gives what it gave when its channel was repeated. More: the kernel's
    channels over and over, scaled by old / new; a picture whose channels are all alike then gives the same where the
    new number is a multiple of the old one, and about the same otherwise.

    Args:
        kernel: (width, old channels, height, width of the kernel).
        channels: of the new pictures, at least 1.

    Returns:
        (width, channels, height, width of the kernel); the kernel itself where the numbers are equal.

    Raises:
        ValueError: no channels, or a kernel of another shape.
    """
    if kernel.ndim != 4 or not kernel.shape[1]:
        raise ValueError(f"an input kernel of shape {tuple(kernel.shape)} is not (width, channels, height, width)")
    if channels < 1:
        raise ValueError(f"pictures of {channels} channels have nothing to see")
    old = kernel.shape[1]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    source = torch.arange(channels, device=kernel.device) % old
    return kernel[:, source] * (old / channels)


class PatchEmbed(nn.Module):
    """A linear projection of every patch, as a convolution whose stride is its kernel.

    Args:
        in_channels: of what the projection sees: the picture's, or the backbone's where there is one.
        width: features of a token.
        patch_size: kernel and stride of the projection; with a backbone, in cells of its feature map.
        bias: whether the projection has one.
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
        bias: bool = True,
        norm_eps: float | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        values = in_channels * patch_size * patch_size
        self.patch_norm = None if norm_eps is None else nn.LayerNorm(values, eps=norm_eps)
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size, bias=bias)
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
