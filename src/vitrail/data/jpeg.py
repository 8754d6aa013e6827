"""How JPEGs are decoded, whole or from the top down to where the wanted rows end.

Through simplejpeg where it is installed (YCbCr and grey ones), else through Pillow. Both are libjpeg-turbo with its
accurate DCT and smooth upsampling: over 160 photographs at all four DCT scales their pixels were equal (greatest
difference 0); where they bring different versions of it, expect at most a step or two of 255.
"""

from __future__ import annotations

import io
import re

import numpy as np
import PIL
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from vitrail.data.headers import JpegHeader
from vitrail.data.scratch import scratch

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Two installations that say the same here decode to the same pixels.
DECODERS = f"pillow {PIL.__version__}, simplejpeg {getattr(simplejpeg, '__version__', 'none')}"

# What libjpeg says first of a shortened JPEG that is sound otherwise. Of codes that end too early it says "premature
# end of data segment", and of a file that ends before the next marker that it does.
_REST_IS_LEFT = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd([0-79])")
_END = b"\xff\xd9"


def decode_jpeg(data: bytes, header: JpegHeader, mode: str, factor: int) -> Image.Image:
    """The whole picture in 1 / `factor` (1, 2, 4, 8) of its size, sides rounded up, as stored.

    Args:
        mode: "L", "RGB" or "CMYK", of the file.
    """
    height, width = -(-header.height // factor), -(-header.width // factor)
    if simplejpeg is not None and mode != "CMYK":
        image = _decode_fast(data, mode, height, width)
        if image is not None:
            return image
    image = JpegImageFile(io.BytesIO(header.bare(data)))
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    return image


def _decode_fast(data: bytes, mode: str, height: int, width: int) -> Image.Image | None:
    """Through simplejpeg, or None for what Pillow must judge: rare colour codings and anything irregular."""
    try:
        *_, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in ("YCbCr", "Gray"):
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", min_height=height, min_width=width)
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)


def decode_jpeg_top(data: bytes | bytearray, header: JpegHeader, bottom: int) -> np.ndarray | None:
    """The rows above `bottom`, and maybe some more below, of a colour JPEG: (rows, width, 3) uint8 RGB, in memory that
    the next call of this thread may write to.

    Their pixels are those of the whole picture, bit for bit. A file that is cut anywhere, be it below these rows, is
    not decoded; damage below them is not noticed.

    Returns:
        None for what `decode_jpeg` must judge.
    """
    rows = header.rows_until(bottom)
    if simplejpeg is None:
        return None
    try:
        *_, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors != "YCbCr":
            return None
        pixels = scratch("decoded", (rows, header.width, 3))
        if rows < header.height:
            data = header.shortened(data, rows)
        found = simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
        return pixels if found.shape == pixels.shape else None
    except ValueError as error:
        rest = _REST_IS_LEFT.match(str(error)) if rows < header.height else None
        # Where the next marker is one of many that restart the codes, the file's end has not been looked for.
        return pixels if rest and (rest[1] == "9" or data.endswith(_END)) else None
