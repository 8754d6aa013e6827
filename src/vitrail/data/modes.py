"""Any colours that Pillow opens as 8-bit RGB or grey: the rules of `images.py`, which states them."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Whose grey "I" pixels are known to be 16-bit values; in a TIFF they may be anything.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM", "JPEG2000")


def to_8_bit(image: Image.Image, file_format: str) -> Image.Image:
    """A decoded image of any mode as mode "RGB" or "L", transparency on white.

    Raises:
        ValueError: floating-point pixels that are not finite.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        known_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and file_format in _SIXTEEN_BIT_FORMATS)
        values = np.asarray(image)
        grey = _scale_16_bit(values) if known_16_bit else _scale_by_range(values)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _scale_16_bit(values: np.ndarray) -> np.ndarray:
    """round(value / 257): 0 stays 0, 65535 becomes 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scale_by_range(values: np.ndarray) -> np.ndarray:
    """Integers or floats of unknown range: the smallest usual range that holds them all, else their own."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):  # min and max pass NaN on
        raise ValueError("pixels that are not finite numbers")
    tops = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    offset, span = (0.0, top) if top else (low, high - low)
    scaled = values.astype(np.float64)
    scaled -= offset
    scaled *= 255 / (span or 1)
    return scaled.round(out=scaled).astype(np.uint8)
