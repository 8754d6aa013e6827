"""Text and pictures made safe for a page: escaped names, pictures as small data URIs."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from PIL import Image

from vitrail.report.data import PictureLike

PIXEL_ART_SIZE = 64  # pictures with no longer side are kept exact (PNG) and enlarged in squares, not blurred
JPEG_QUALITY = 82


def escape(text: object) -> str:
    """For element content and quoted attributes; characters without a shape are shown as escapes."""
    shown = "".join(
        character if character in " \u00a0" or character.isprintable() else repr(character)[1:-1]
        for character in str(text)
    )
    return html.escape(shown, quote=True)


def name(text: object) -> str:
    """A user's name (class, file) that cannot turn the direction of the text around it."""
    return f"<bdi>{escape(text)}</bdi>"


def picture(source: PictureLike | None, alt: str, size: int) -> str:
    """An <img> of at most `size` pixels a side; a blank tile where there is no picture or it cannot be read."""
    blank = f'<span class="blank" role="img" aria-label="{escape(alt)}: no picture to show">no picture</span>'
    if source is None:
        return blank
    image = _open(source)
    if image is None:
        return blank
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    is_pixel_art = max(image.size) <= PIXEL_ART_SIZE
    buffer = io.BytesIO()
    if is_pixel_art:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    kind = "png" if is_pixel_art else "jpeg"
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    css_class = ' class="pixels"' if is_pixel_art else ""
    width, height = image.size
    return (
        f'<img{css_class} width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'
    )


def _open(source: PictureLike) -> Image.Image | None:
    if isinstance(source, np.ndarray):
        pixels = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).convert("RGB")
    try:
        with Image.open(io.BytesIO(source), formats=("PNG", "JPEG")) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
