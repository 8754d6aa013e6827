"""What happens to one picture on its way into a batch: pure functions of (picture, random generator)."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from vitrail.data import colors
from vitrail.data.config import Augmentation, Preprocessing
from vitrail.data.images import Picture
from vitrail.data.randaugment import randaugment
from vitrail.data.resize import resize

# (left, top, right, bottom) in pixels of the upright picture at full size; edges may fall between pixels.
Box = tuple[float, float, float, float]

# How much larger than the result a JPEG is decoded at least. On photographs of about 400x533 pixels, against decoding
# at full size: margin 2 changes a 96-pixel picture by 0.02 of 255 on average (never more than 1) and a 32-pixel one by
# 0.6; margin 1 by 0.6 and 1.2 (peak signal-to-noise at worst 38 and 30 dB), at 1.4 times the speed at 96 pixels.
# At 224 pixels such photographs are decoded at full size either way. So evaluation, whose numbers are compared, keeps
# a margin, and training, which varies the picture far more, does not.
EVALUATION_MARGIN = 2.0
TRAINING_MARGIN = 1.0

# Pixels of a result from which on a training crop at full size goes through `resize.py`. Smaller ones are mostly cut
# from JPEGs that were decoded smaller, and are not worth importing torch into a loader worker that has no kernel.
_WORTH_TORCH = 128 * 128

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
    right, bottom = min((left + target_width) * across, width), min((top + target_height) * down, height)
    return left * across, top * down, right, bottom


def inception_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], generator: np.random.Generator
) -> Box:
    """A random box in a picture of `size` (height, width): Szegedy et al. 2015, section 6, as torchvision draws it.

    The share of the area is uniform in `area`, width / height log-uniform in `aspect`. Where ten draws do not fit, the
    largest centred box whose aspect is allowed. At least one pixel a side, whole pixels.
    """
    height, width = size
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        target = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(low, high))
        box_width, box_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return left, top, left + box_width, top + box_height
    ratio = min(max(width / height, aspect[0]), aspect[1])
    box_width, box_height = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def window_box(size: tuple[int, int], share: float, generator: np.random.Generator) -> Box:
    """A random box of `share` of both sides of a picture of `size` (height, width), with its aspect: what is left of
    resizing it to a square and cutting a smaller square at random (Kolesnikov et al. 2020, section 3.3)."""
    height, width = size
    top, left = generator.uniform(0, 1 - share, size=2).tolist()
    return left * width, top * height, (left + share) * width, (top + share) * height


def resized_crop(picture: Picture, box: Box, preprocessing: Preprocessing, margin: float) -> Image.Image:
    """Decode, cut and resize to `preprocessing.image_size` with antialiasing.

    Args:
        margin: a JPEG may be decoded smaller as long as the box keeps `margin` times the wanted size on both sides.
    """
    height, width = preprocessing.image_size
    left, top, right, bottom = box
    full_height, full_width = picture.size
    image = picture.image(_needed_size(picture, box, preprocessing, margin), preprocessing.num_channels)
    down, across = image.height / full_height, image.width / full_width
    # A product may pass the edge by the last bit, which Pillow refuses.
    scaled = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    return image.resize((width, height), _RESAMPLING[preprocessing.interpolation], box=scaled)


def _needed_size(picture: Picture, box: Box, preprocessing: Preprocessing, margin: float) -> tuple[int, int]:
    """(height, width) of a decoded picture whose `box` is `margin` times as large as the result."""
    (height, width), (full_height, full_width) = preprocessing.image_size, picture.size
    left, top, right, bottom = box
    return (
        math.ceil(margin * height * full_height / (bottom - top)),
        math.ceil(margin * width * full_width / (right - left)),
    )


def training_crop(
    picture: Picture, box: Box, preprocessing: Preprocessing, mirrored: bool = False
) -> Image.Image | np.ndarray:
    """As `resized_crop`, for training: the hot path of most runs. `mirrored`: left and right are exchanged.

    A box of whole pixels of a picture at full size is cut out and resized by `resize.py`, which is torchvision's
    resized_crop bit for bit, where the result has at least 128 x 128 pixels: a picture is not decoded below its box.
    Against `resized_crop` the inner pixels differ by at most 1 of 255, those at the edges by what lies beyond the box.

    Returns:
        A Pillow image, or (channels, height, width) uint8.
    """
    height, width = preprocessing.image_size
    whole = all(float(edge).is_integer() for edge in box)
    if whole and height * width >= _WORTH_TORCH:
        needed = _needed_size(picture, box, preprocessing, TRAINING_MARGIN)
        if picture.is_full_size(needed):
            left, top, right, bottom = (int(edge) for edge in box)
            pixels = picture.region((left, top, right, bottom), preprocessing.num_channels)
            return resize(pixels, (height, width), preprocessing.interpolation, mirrored)
    return _mirrored(resized_crop(picture, box, preprocessing, TRAINING_MARGIN), mirrored)


def _mirrored(image: Image.Image, mirrored: bool) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB or grey image as (channels, height, width) uint8, contiguous and writable."""
    pixels = np.asarray(image)
    return np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")


def _to_image(pixels: np.ndarray) -> Image.Image:
    """What `to_array` makes an array of."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


class EvaluationTransform:
    """What evaluation, prediction and serving do: squash, or short side and centre crop. Draws nothing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, picture: Picture, generator: np.random.Generator | None = None) -> np.ndarray:
        """(channels, height, width) uint8. Raises ImageError where the picture cannot be decoded."""
        return to_array(self.image(picture))

    def image(self, picture: Picture) -> Image.Image:
        """The same as a Pillow image."""
        box = evaluation_box(picture.size, self.preprocessing)
        return resized_crop(picture, box, self.preprocessing, EVALUATION_MARGIN)


class TrainingTransform:
    """What training does to a picture, in this order: crop, flip, RandAugment, colour, grey, blur, solarize.

    A pure function of the picture and the generator's state. What has rate 0 draws nothing.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self._evaluation = EvaluationTransform(preprocessing)
        self._mean_color = tuple(min(255, round(255 * value)) for value in preprocessing.mean)
        rates = (augmentation.color_jitter_rate, augmentation.grayscale_rate, augmentation.blur_rate)
        self._goes_on = augmentation.randaugment is not None or max(*rates, augmentation.solarize_rate) > 0

    def __call__(self, picture: Picture, generator: np.random.Generator) -> np.ndarray:
        """(channels, height, width) uint8. Raises ImageError where the picture cannot be decoded."""
        config = self.augmentation
        image = self._crop_and_flip(picture, generator)
        if isinstance(image, np.ndarray):
            if not self._goes_on:
                return image
            image = _to_image(image)
        if config.randaugment is not None:
            resampling = _RESAMPLING[self.preprocessing.interpolation]
            image = randaugment(image, config.randaugment, self._mean_color, resampling, generator)
        if _happens(config.color_jitter_rate, generator):
            image = colors.jitter_colors(image, config.color_jitter, generator)
        if _happens(config.grayscale_rate, generator):
            image = colors.remove_color(image)
        if _happens(config.blur_rate, generator):
            image = colors.blur(image, config.blur_radius, generator)
        if _happens(config.solarize_rate, generator):
            image = colors.solarize(image)
        return to_array(image)

    def _crop_and_flip(self, picture: Picture, generator: np.random.Generator) -> Image.Image | np.ndarray:
        config = self.augmentation
        if config.crop == "inception":
            box = inception_box(picture.size, config.crop_area, config.crop_aspect, generator)
        elif config.crop == "window":
            box = window_box(picture.size, config.window_share, generator)
        else:
            image = self._evaluation.image(picture)
            if config.crop == "shift":
                shifts = generator.integers(-config.max_shift, config.max_shift + 1, size=2)
                image = shift(image, int(shifts[0]), int(shifts[1]))
            return _mirrored(image, _happens(config.flip_rate, generator))
        return training_crop(picture, box, self.preprocessing, _happens(config.flip_rate, generator))


def shift(image: Image.Image, down: int, across: int) -> Image.Image:
    """Move a picture by whole pixels; the gap is black, as published for CIFAR and MNIST."""
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -across, 0, 1, -down), Image.Resampling.NEAREST)


def _happens(rate: float, generator: np.random.Generator) -> bool:
    return rate > 0 and bool(generator.random() < rate)
