"""How pictures were prepared for published weights: numbers that several families share."""

from __future__ import annotations

import math

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def crop_fraction(image_size: int, resized_size: int) -> float:
    """The fraction with which `Preprocessing` resizes to exactly `resized_size` pixels before it cuts `image_size`.

    Raises:
        ValueError: resized to less than is cut.
    """
    if resized_size < image_size:
        raise ValueError(f"pictures resized to {resized_size} pixels are too small to cut {image_size} out of them")
    fraction = image_size / resized_size
    # Preprocessing takes the floor of the quotient, which may be one bit short of the whole number.
    while math.floor(image_size / fraction) < resized_size:
        fraction = math.nextafter(fraction, 0.0)
    return fraction
