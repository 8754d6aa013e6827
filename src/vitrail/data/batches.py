"""What happens to whole batches on the device: normalisation, MixUp, CutMix, random erasing.

Every random choice comes from a CPU generator, so that a step is the same on every device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitrail.data.config import BatchAugmentation, Preprocessing
from vitrail.data.pixel_kernels import pixel_kernels

_WORTH_TABLES = 1 << 15  # bytes of a batch; smaller ones are normalised sooner than tables are made

Rectangle = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(images / 255 - mean) / std, per channel.

    Args:
        images: (batch, channels, height, width) uint8.
    Returns:
        The same shape in float32, on the same device.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != preprocessing.num_channels:
        raise ValueError(
            f"images of {images.dtype} {tuple(images.shape)} are not uint8 (batch, {preprocessing.num_channels}, "
            "height, width) as the preprocessing says"
        )
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    # Tensors without pixels, as a plan is made with, are of other types; a compiler makes one pass of it itself.
    is_plain = type(images) is Tensor and images.device.type == "cpu" and not torch.compiler.is_compiling()
    kernels = pixel_kernels() if is_plain and images.numel() >= _WORTH_TABLES else None
    if kernels is None:
        return _normalized(images, mean, std)
    # A byte has 256 values: each is normalised once, and looked up from then on.
    values = torch.arange(256, dtype=torch.uint8).repeat(1, images.shape[1], 1, 1)
    result = torch.empty(images.shape, dtype=torch.float32)
    kernels.look_up(images.contiguous().numpy(), _normalized(values, mean, std)[0, :, 0].numpy(), result.numpy())
    return result


def _normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.float().div_(255).sub_(mean).div_(std)


def augment_batch(
    images: Tensor, labels: Tensor, num_classes: int, config: BatchAugmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix and erase; `images` itself stays as it is.

    Erasing comes before mixing, as the pictures of a batch are erased one by one.

    Args:
        images: (batch, channels, height, width), normalised floats.
        labels: (batch,) int64 class indices.
        generator: on the CPU; one number is drawn from it, whatever is on.
    Returns:
        images (batch, channels, height, width) and targets (batch, num_classes) float32 that sum to 1.
    """
    # Beta and integer draws from a given generator are numpy's; torch has no public Beta that takes one.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    draw = np.random.default_rng(seed)
    targets = F.one_hot(labels, num_classes).float()
    if len(images) == 0:
        return images, targets
    if config.erasing_rate > 0:
        images = erase(images, config.erasing_rate, draw)
    use_cutmix = config.cutmix_alpha > 0
    if use_cutmix and config.mixup_alpha > 0:
        use_cutmix = bool(draw.random() < config.cutmix_switch_rate)
    if use_cutmix:
        return cutmix(images, targets, float(draw.beta(config.cutmix_alpha, config.cutmix_alpha)), draw)
    if config.mixup_alpha > 0:
        share = float(draw.beta(config.mixup_alpha, config.mixup_alpha))
        return mixup(images, targets, max(share, 1 - share))
    return images, targets


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mix each picture and target with the one before it in the batch (Zhang et al. 2018; the pairing is big_vision's).

    Args:
        images: (batch, channels, height, width).
        targets: (batch, num_classes).
        share: of the picture itself, 0 to 1; its neighbour gets the rest.
    """
    return tuple(values.lerp(values.roll(1, 0), 1 - share) for values in (images, targets))  # type: ignore[return-value]


def cutmix(images: Tensor, targets: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of the picture before it in the batch into each picture (Yun et al. 2019).

    The rectangle covers 1 - `share` of the picture before it is cut at the border; the targets are mixed by the area
    that it really covers.
    """
    top, left, bottom, right = cutmix_rectangle(images.shape[-2], images.shape[-1], share, draw)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    return mixed, targets.lerp(targets.roll(1, 0), pasted)


def cutmix_rectangle(height: int, width: int, share: float, draw: np.random.Generator) -> Rectangle:
    """A rectangle of the picture's aspect about a random pixel, of sides sqrt(1 - share), cut at the border."""
    side = math.sqrt(max(0.0, 1 - share))
    half_height, half_width = int(height * side) / 2, int(width * side) / 2
    y, x = int(draw.integers(height)), int(draw.integers(width))
    top, bottom = max(y - math.floor(half_height), 0), min(y + math.ceil(half_height), height)
    left, right = max(x - math.floor(half_width), 0), min(x + math.ceil(half_width), width)
    return top, left, bottom, right


def erase(images: Tensor, rate: float, draw: np.random.Generator) -> Tensor:
    """Fill one rectangle of a share `rate` of the pictures with normal noise (Zhong et al. 2020, as timm's "pixel").

    Args:
        images: (batch, channels, height, width), normalised, so that the noise has the pictures' own spread.
    """
    erased = images.clone()
    for index in np.flatnonzero(draw.random(len(images)) < rate):
        top, left, bottom, right = erasing_rectangle(images.shape[-2], images.shape[-1], draw)
        noise = draw.standard_normal((images.shape[1], bottom - top, right - left), dtype=np.float32)
        erased[int(index), :, top:bottom, left:right] = torch.from_numpy(noise).to(images)
    return erased


def erasing_rectangle(height: int, width: int, draw: np.random.Generator) -> Rectangle:
    """Between 2 % and a third of the area, height / width log-uniform in 0.3 to 1 / 0.3; empty where ten draws fail."""
    spread = math.log(1 / 0.3)
    for _ in range(10):
        area = draw.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(draw.uniform(-spread, spread))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top, left = int(draw.integers(height - rows + 1)), int(draw.integers(width - columns + 1))
            return top, left, top + rows, left + columns
    return 0, 0, 0, 0
