"""From bytes to embedded patches, for inference: the normalisation of the preprocessing is part of the product."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.config import Preprocessing
from vitrail.engines.linear import Linear
from vitrail.layers.std_conv import StandardizedConv2d, pad_same, standardize
from vitrail.models.vit import VisionTransformer

# Taken off the bytes before the product: what remains is exact in bfloat16, and the kernel's rounding errors meet
# numbers about zero and not about 128.
MIDDLE = 128


class FoldedPatches(nn.Module):
    """The plain patch stem: cut, and one product. Exact, because the stem has no padding that would have to be black.

    Args:
        model: with stem "patch" and no patch_norm.
        preprocessing: whose normalisation the bytes need.
    """

    def __init__(self, model: VisionTransformer, preprocessing: Preprocessing) -> None:
        super().__init__()
        projection = model.patch_embed.proj
        self.image_shape = (model.config.in_channels, *model.config.image_size)
        self.patch_size = model.config.patch_size
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
        kernel = projection.weight.detach().double() / (255 * std)[:, None, None]
        bias = (kernel * (MIDDLE - 255 * mean)[:, None, None]).flatten(1).sum(1)
        if projection.bias is not None:
            bias = bias + projection.bias.detach().double()
        self.proj = Linear(kernel.flatten(1), bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 -> (batch, patches, width).

        Raises:
            ValueError: pictures of another shape or type.
        """
        require_bytes(images, self.image_shape)
        batch, channels, height, width = images.shape
        size = self.patch_size
        cells = images.reshape(batch, channels, height // size, size, width // size, size)
        cells = cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // size) * (width // size), -1)
        return self.proj(cells.to(self.proj.dtype) - MIDDLE)


class Normalization(nn.Module):
    """As `normalize`, number for number, but never in place, which not every exporter knows."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        # No buffers: a model that is put into another precision must not take them with it.
        self.mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1)
        self.std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 -> the same shape in float32."""
        return (images.float() / 255 - self.mean) / self.std


class NormalizedStem(nn.Module):
    """Any other stem: normalised in float32, then the stem itself, its standardised kernels computed beforehand.

    Its convolutions pad with zeros, which stand for the mean colour: a folded normalisation would make them black.

    Args:
        model: any.
        preprocessing: whose normalisation the bytes need.
    """

    def __init__(self, model: VisionTransformer, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.image_shape = (model.config.in_channels, *model.config.image_size)
        self.normalize = Normalization(preprocessing)
        self.stem = copy.deepcopy(model.patch_embed)
        for parent in list(self.stem.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, StandardizedConv2d):
                    setattr(parent, name, FixedStandardizedConv2d(child))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 -> (batch, patches, width).

        Raises:
            ValueError: pictures of another shape or type.
        """
        require_bytes(images, self.image_shape)
        return self.stem(self.normalize(images).to(self.stem.proj.weight.dtype))


class FixedStandardizedConv2d(nn.Module):
    """A `StandardizedConv2d` that will learn no more: its kernel is standardised once, in float32."""

    def __init__(self, conv: StandardizedConv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(standardize(conv.weight.detach(), conv.eps, conv.eps_under))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.stride, self.padding, self.pads_same = conv.stride, conv.padding, conv.pads_same

    def forward(self, features: Tensor) -> Tensor:
        """As `StandardizedConv2d`."""
        if self.pads_same:
            features = pad_same(features, self.weight.shape[-1], self.stride[0])
        return F.conv2d(features, self.weight, self.bias, self.stride, self.padding)


def require_bytes(images: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where `images` is not (batch, *image_shape) in uint8."""
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != image_shape:
        raise ValueError(
            f"pictures of {images.dtype} {tuple(images.shape)} are not uint8 (batch, channels, height, width) with "
            f"{image_shape}: give them as the evaluation transform makes them, not normalised"
        )
