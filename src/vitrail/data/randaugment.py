"""RandAugment (Cubuk et al. 2020) in the two forms that Vision Transformers were trained with.

`VIT_OPERATIONS` are big_vision's, of AugReg (Steiner et al. 2021): 16 operations of which every drawn one is applied;
geometry takes the nearest pixel and fills with grey 128. Two of its quirks are kept because they decide the numbers:
Posterize at magnitude 0 keeps no bit, and Contrast blends with the constant height * width / 256 (196 at 224 pixels)
instead of the mean. Translations are in pixels, meant for 224-pixel pictures. At magnitudes above 10 the Solarize
threshold passes 255 and the operation changes nothing.

`MONOTONE_OPERATIONS` are those of timm's "rand-m9-mstd0.5-inc1", which DeiT uses (Touvron et al. 2021): 15 operations
that all grow stronger with the magnitude; each drawn one is applied with probability 1/2, with a magnitude drawn from
a normal distribution and held within 0 and 10. Filled with the mean colour, resampled as the picture was.

All take mode "RGB" or "L".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from vitrail.data.config import RandAugment

_GREY = 128
_APPLY_RATE = 0.5  # "monotone" only


@dataclass(frozen=True)
class Canvas:
    """What operations need besides the picture: `fill` (one value a channel) and how geometry resamples."""

    fill: tuple[int, ...]
    resampling: Image.Resampling


@dataclass(frozen=True)
class Operation:
    """`apply(image, argument, canvas, generator)`; `argument(magnitude)` is negated half the time where `signed`."""

    apply: Callable[[Image.Image, float, Canvas, np.random.Generator], Image.Image]
    argument: Callable[[float], float] = lambda magnitude: 0.0
    signed: bool = False


def randaugment(
    image: Image.Image,
    config: RandAugment,
    mean_color: tuple[int, ...],
    resampling: Image.Resampling,
    generator: np.random.Generator,
) -> Image.Image:
    """Apply `config.num_operations` operations, drawn uniformly with replacement.

    Args:
        image: mode "RGB" or "L".
        mean_color: one value from 0 to 255 a channel; `mean_color` and `resampling` serve "monotone" alone.
    """
    if config.kind == "vit":
        operations, rate, std = tuple(VIT_OPERATIONS.values()), 1.0, 0.0
        canvas = Canvas((_GREY,) * len(mean_color), Image.Resampling.NEAREST)
    else:
        operations, rate, std = tuple(MONOTONE_OPERATIONS.values()), _APPLY_RATE, config.magnitude_std
        canvas = Canvas(mean_color, resampling)
    for index in generator.integers(len(operations), size=config.num_operations):
        if rate < 1 and generator.random() >= rate:
            continue
        magnitude = min(max(generator.normal(config.magnitude, std), 0.0), 10.0) if std else config.magnitude
        operation = operations[index]
        argument = operation.argument(magnitude)
        if operation.signed and generator.random() < 0.5:
            argument = -argument
        image = operation.apply(image, argument, canvas, generator)
    return image


def _table(image: Image.Image, values: list[int]) -> Image.Image:
    return image.point(values * len(image.getbands()))


def _affine(image: Image.Image, matrix: tuple[float, ...], canvas: Canvas) -> Image.Image:
    """Output pixel (x, y) shows input (a x + b y + c, d x + e y + f), both counted from the corner."""
    fill = canvas.fill if image.mode == "RGB" else canvas.fill[0]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, canvas.resampling, fillcolor=fill)


def auto_contrast(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Stretch each channel to 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Flatten each channel's histogram."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    return ImageChops.invert(image)


def rotate(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """By `argument` degrees about the centre."""
    fill = canvas.fill if image.mode == "RGB" else canvas.fill[0]
    return image.rotate(argument, canvas.resampling, fillcolor=fill)


def shear_x(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    return _affine(image, (1, argument, 0, 0, 1, 0), canvas)


def shear_y(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, argument, 1, 0), canvas)


def shear_x_at_centers(
    image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator
) -> Image.Image:
    """TensorFlow counts from the centre of the first pixel, Pillow from its corner: half a pixel of shear apart."""
    return _affine(image, (1, argument, -argument / 2, 0, 1, 0), canvas)


def shear_y_at_centers(
    image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator
) -> Image.Image:
    return _affine(image, (1, 0, 0, argument, 1, -argument / 2), canvas)


def translate_x(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """By `argument` pixels."""
    return _affine(image, (1, 0, argument, 0, 1, 0), canvas)


def translate_y(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, argument), canvas)


def translate_x_share(
    image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator
) -> Image.Image:
    """By `argument` of the width."""
    return translate_x(image, argument * image.width, canvas, generator)


def translate_y_share(
    image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator
) -> Image.Image:
    return translate_y(image, argument * image.height, canvas, generator)


def posterize(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Keep the `argument` highest bits; 0 gives black."""
    shift = 8 - min(int(argument), 8)
    return _table(image, [value >> shift << shift for value in range(256)])


def solarize(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Invert pixels of at least `argument`; above 255 none."""
    return _table(image, [value if value < argument else 255 - value for value in range(256)])


def solarize_add(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Add `argument` to pixels below 128."""
    return _table(image, [min(value + int(argument), 255) if value < 128 else value for value in range(256)])


def color(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Blend with the grey picture: 0 is grey, 1 the picture itself, above 1 extrapolated and clipped."""
    return ImageEnhance.Color(image).enhance(argument)


def contrast(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Blend with the constant mean luma."""
    return ImageEnhance.Contrast(image).enhance(argument)


def contrast_with_area(
    image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator
) -> Image.Image:
    """Blend with the constant height * width / 256, at most 255 (the sum of a histogram, divided by its bins)."""
    constant = min(image.height * image.width // 256, 255)
    flat = Image.new(image.mode, image.size, (constant,) * 3 if image.mode == "RGB" else constant)
    return Image.blend(flat, image, argument)


def brightness(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Blend with black."""
    return ImageEnhance.Brightness(image).enhance(argument)


def sharpness(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """Blend with the smoothing [1 1 1; 1 5 1; 1 1 1] / 13, which leaves the border as it is."""
    if min(image.size) < 3:
        return image  # nothing but border, on which Pillow's filter gives garbage
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, argument)


def cutout(image: Image.Image, argument: float, canvas: Canvas, generator: np.random.Generator) -> Image.Image:
    """A grey square of half side `argument` pixels about a random pixel, cut at the border (DeVries & Taylor 2017)."""
    half = int(argument)
    x, y = int(generator.integers(image.width)), int(generator.integers(image.height))
    box = (max(x - half, 0), max(y - half, 0), min(x + half, image.width), min(y + half, image.height))
    image = image.copy()
    image.paste(canvas.fill if image.mode == "RGB" else canvas.fill[0], box)
    return image


def _moved_enhancement(
    apply: Callable[[Image.Image, float, Canvas, np.random.Generator], Image.Image],
) -> Operation:
    """Blend by 1 + or - 0.9 * magnitude / 10, at least 0.1: no change at magnitude 0, stronger either way."""
    return Operation(
        lambda image, argument, canvas, generator: apply(image, max(0.1, 1 + argument), canvas, generator),
        lambda magnitude: magnitude / 10 * 0.9,
        signed=True,
    )


def _enhancement(
    apply: Callable[[Image.Image, float, Canvas, np.random.Generator], Image.Image],
) -> Operation:
    return Operation(apply, lambda magnitude: 0.1 + 1.8 * magnitude / 10)


VIT_OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(auto_contrast),
    "Equalize": Operation(equalize),
    "Invert": Operation(invert),
    "Rotate": Operation(rotate, lambda magnitude: 30 * magnitude / 10, signed=True),
    "Posterize": Operation(posterize, lambda magnitude: int(4 * magnitude / 10)),
    "Solarize": Operation(solarize, lambda magnitude: int(256 * magnitude / 10)),
    "Color": _enhancement(color),
    "Contrast": _enhancement(contrast_with_area),
    "Brightness": _enhancement(brightness),
    "Sharpness": _enhancement(sharpness),
    "ShearX": Operation(shear_x_at_centers, lambda magnitude: 0.3 * magnitude / 10, signed=True),
    "ShearY": Operation(shear_y_at_centers, lambda magnitude: 0.3 * magnitude / 10, signed=True),
    "TranslateX": Operation(translate_x, lambda magnitude: 100 * magnitude / 10, signed=True),
    "TranslateY": Operation(translate_y, lambda magnitude: 100 * magnitude / 10, signed=True),
    "Cutout": Operation(cutout, lambda magnitude: int(40 * magnitude / 10)),
    "SolarizeAdd": Operation(solarize_add, lambda magnitude: int(110 * magnitude / 10)),
}

MONOTONE_OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(auto_contrast),
    "Equalize": Operation(equalize),
    "Invert": Operation(invert),
    "Rotate": Operation(rotate, lambda magnitude: 30 * magnitude / 10, signed=True),
    "Posterize": Operation(posterize, lambda magnitude: 4 - int(4 * magnitude / 10)),
    "Solarize": Operation(solarize, lambda magnitude: 256 - int(256 * magnitude / 10)),
    "SolarizeAdd": Operation(solarize_add, lambda magnitude: int(110 * magnitude / 10)),
    "Color": _moved_enhancement(color),
    "Contrast": _moved_enhancement(contrast),
    "Brightness": _moved_enhancement(brightness),
    "Sharpness": _moved_enhancement(sharpness),
    "ShearX": Operation(shear_x, lambda magnitude: 0.3 * magnitude / 10, signed=True),
    "ShearY": Operation(shear_y, lambda magnitude: 0.3 * magnitude / 10, signed=True),
    "TranslateX": Operation(translate_x_share, lambda magnitude: 0.45 * magnitude / 10, signed=True),
    "TranslateY": Operation(translate_y_share, lambda magnitude: 0.45 * magnitude / 10, signed=True),
}
