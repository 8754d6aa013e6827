"""Fast resizing of uint8 pixels, as training crops need it: torch's numbers, by our own kernel where it can be had.

A crop of 300x350 pixels to 224 takes the kernel a quarter of the time that torch's takes, which is about a third of
Pillow's (bilinear, one busy core); the two give the same pixels. Their weights have fewer bits than Pillow's: of a
picture that is resized whole the results differed by at most 1 of 255 (bilinear; the tests allow 2 for bicubic). torch
is imported where it is first needed, because a loader worker that has the kernel, or that only shrinks small pictures,
does without.
"""

from __future__ import annotations

import numpy as np

from vitrail.data.config import Interpolation
from vitrail.data.pixel_kernels import pixel_kernels
from vitrail.data.scratch import scratch


def resize(
    pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation, mirrored: bool = False
) -> np.ndarray:
    """Resize with antialiasing, as torchvision's `resize` does, bit for bit; nothing beyond the edges is looked at.

    Args:
        pixels: (height, width, channels) uint8, 1 or 3 channels.
        size: (height, width) of the result.
        mirrored: exchange left and right.
    Returns:
        (channels, height, width) uint8, contiguous and writable.
    """
    kernels = pixel_kernels()
    if kernels is not None:
        return kernels.resize(pixels, size, interpolation, mirrored)
    return resize_by_torch(pixels, size, interpolation, mirrored)


def resize_by_torch(
    pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation, mirrored: bool = False
) -> np.ndarray:
    """As `resize`, where there is no kernel."""
    import torch
    from torch.nn import functional as F

    cut = scratch("cut", pixels.shape)
    np.copyto(cut, pixels)
    image = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size, mode=interpolation, align_corners=False, antialias=True)[0].contiguous()
    # NumPy takes eight times as long to mirror.
    return (resized.flip(-1) if mirrored else resized).numpy()
