"""What happens to one picture on its way into a batch: pure functions of (picture, random generator)."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from vitrail.data.config import Preprocessing
from vitrail.data.images import Picture

# (left, top, right, bottom) in pixels of the upright picture at full size; edges may fall between pixels.
Box = tuple[float, float, float, float]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def evaluation_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The part of a picture of `size` (height, width) that evaluation resizes to `preprocessing.image_size`.

    "crop" resizes the picture so that both sides cover floor(image_size / crop_fraction), one of them exactly, and
    cuts the centre. Both at once are one resize of this box, because resampling looks beyond the box's edge. For
    square images sizes and offsets are those of torchvision's Resize and CenterCrop, so of timm.
    """
    height, width = size
    if preprocessing.resize == "squash":
        return 0.0, 0.0, float(width), float(height)
    target_height, target_width = preprocessing.image_size
    cover_height = math.floor(target_height / preprocessing.crop_fraction)
    cover_width = math.floor(target_width / preprocessing.crop_fraction)
    if cover_height * width >= cover_width * height:
        resized_height, resized_width = cover_height, cover_height * width // height
    else:
        resized_height, resized_width = cover_width * height // width, cover_width
    top, left = round((resized_height - target_height) / 2), round((resized_width - target_width) / 2)
    across, down = width / resized_width, height / resized_height
    # Rounding must not push the far edge outside by the last bit.
    return (
        left * across,
        top * down,
        min((left + target_width) * across, width),
        min((top + target_height) * down, height),
    )


def resized_crop(picture: Picture, box: Box, preprocessing: Preprocessing) -> Image.Image:
    """Decode, cut and resize to `preprocessing.image_size` with antialiasing: the hot path, and only here."""
    height, width = preprocessing.image_size
    left, top, right, bottom = box
    full_height, full_width = picture.size
    needed = (math.ceil(height * full_height / (bottom - top)), math.ceil(width * full_width / (right - left)))
    image = picture.image(needed, preprocessing.num_channels)
    down, across = image.height / full_height, image.width / full_width
    scaled = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    return image.resize((width, height), _RESAMPLING[preprocessing.interpolation], box=scaled)


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB or grey image as (channels, height, width) uint8, contiguous and writable."""
    pixels = np.asarray(image)
    return np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")


class EvaluationTransform:
    """What evaluation, prediction and serving do: squash, or short side and centre crop. Draws nothing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, picture: Picture, generator: np.random.Generator | None = None) -> np.ndarray:
        """(channels, height, width) uint8. Raises ImageError where the picture cannot be decoded."""
        return to_array(resized_crop(picture, evaluation_box(picture.size, self.preprocessing), self.preprocessing))
