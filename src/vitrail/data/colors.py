"""Colour jitter, grey, blur and solarize of one picture, as contrastive and DeiT-style training use them.

Mode "RGB" or "L" in, the same mode out; every random choice is drawn from the generator given.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def jitter_colors(
    image: Image.Image, strengths: tuple[float, float, float, float], generator: np.random.Generator
) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order (Howard 2013; SimCLR, Chen et al. 2020).

    Args:
        strengths: the first three factors are uniform in [max(0, 1 - s), 1 + s]; hue turns by a share of the colour
            circle uniform in [-s, s], s <= 0.5. Grey pictures have neither saturation nor hue.
    """
    order = generator.permutation(4)
    spreads = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]]
    amounts = [generator.uniform(low, high) for low, high in [*spreads, (-strengths[3], strengths[3])]]
    for index in order:
        if index == 0:
            image = ImageEnhance.Brightness(image).enhance(amounts[0])
        elif index == 1:
            image = ImageEnhance.Contrast(image).enhance(amounts[1])
        elif index == 2 and image.mode == "RGB":
            image = ImageEnhance.Color(image).enhance(amounts[2])
        elif index == 3 and image.mode == "RGB" and strengths[3] > 0:
            image = turn_hue(image, amounts[3])
    return image


def turn_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn the hue of an RGB image by `share` of the colour circle."""
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + int(share * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def remove_color(image: Image.Image) -> Image.Image:
    """Luma in every channel."""
    return image.convert("L").convert(image.mode)


def blur(image: Image.Image, radii: tuple[float, float], generator: np.random.Generator) -> Image.Image:
    """Gaussian blur of a standard deviation uniform in `radii`, pixels (Pillow's, three box filters)."""
    return image.filter(ImageFilter.GaussianBlur(generator.uniform(*radii)))


def solarize(image: Image.Image) -> Image.Image:
    """Invert the upper half of the values."""
    return ImageOps.solarize(image, 128)
