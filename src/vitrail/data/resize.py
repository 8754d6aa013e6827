"""Fast resizing of uint8 pixels, as training crops need it: torch's kernel, which uses the processor's vector units.

Crops of photographs of about 400x533 pixels to 224 take about a third of the time that Pillow's takes (bilinear, one
busy core). Its weights have fewer bits than Pillow's: of a picture that is resized whole the two differed by at most 1
of 255 (bilinear; the tests allow 2 for bicubic). torch is imported where it is first needed, because a loader worker
that only shrinks small pictures does without.
"""

from __future__ import annotations

import numpy as np

from vitrail.data.config import Interpolation
from vitrail.data.scratch import scratch


def resize(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Resize with antialiasing, as torchvision's `resize` does, bit for bit; nothing beyond the edges is looked at.

    Args:
        pixels: (height, width, channels) uint8.
        size: (height, width) of the result.
    Returns:
        (channels, height, width) uint8, contiguous and writable.
    """
    import torch
    from torch.nn import functional as F

    cut = scratch("cut", pixels.shape)
    np.copyto(cut, pixels)
    image = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size, mode=interpolation, align_corners=False, antialias=True)
    return np.ascontiguousarray(resized[0].numpy())


def mirror(pixels: np.ndarray) -> np.ndarray:
    """(channels, height, width) uint8 with left and right exchanged, contiguous; NumPy takes eight times as long."""
    import torch

    return torch.from_numpy(pixels).flip(-1).numpy()
