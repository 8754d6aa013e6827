"""Arrays as small exact pictures: maps in colours, sheets of tiles, light on a photograph."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from vitrail.report.markup import escape

# From nothing to all, light enough in the middle for both backgrounds: dark blue, violet, red, orange, pale yellow. The
# sum of the three channels grows all the way, so that a share can be read back from its colour.
RAMP = np.array([[13, 16, 50], [84, 39, 130], [187, 55, 84], [243, 133, 35], [252, 244, 180]], dtype=np.float64)


def lit(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture, dark where the map is, (height, width, 3) uint8: the map resized bilinearly, by its
    largest value."""
    height, width = pixels.shape[:2]
    share = weights / max(float(weights.max()), 1e-30)
    smooth = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return (rgb * (0.2 + 0.8 * np.asarray(smooth)[..., None])).round().astype(np.uint8)


def sheet(tiles: np.ndarray, columns: int) -> np.ndarray:
    """(count, height, width, 3) uint8 -> all on one sheet, a clear line between them, (..., ..., 4) uint8."""
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    found = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        found[top : top + height, left : left + width, :3] = tile
        found[top : top + height, left : left + width, 3] = 255
    return found


def coloured(shares: np.ndarray) -> np.ndarray:
    """(..., height, width) of 0 to 1 -> (..., height, width, 3) uint8."""
    place = np.clip(shares, 0, 1) * (len(RAMP) - 1)
    low = np.minimum(place.astype(int), len(RAMP) - 2)
    values: np.ndarray = RAMP[low] + (place - low)[..., None] * (RAMP[low + 1] - RAMP[low])
    return values.round().astype(np.uint8)


def tiles_image(pixels: np.ndarray, alt: str) -> str:
    """Exact pixels as an <img> that is enlarged in squares, to the width there is."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels tiles" width="{width}" height="{height}" alt="{escape(alt)}"'
        f' src="data:image/png;base64,{data}">'
    )
