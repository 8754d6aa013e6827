"""The one guarded reader of pictures, for training, prediction and serving alike.

A file becomes a `Picture` (its header read and checked, nothing decoded) or an `ImageError` that names it and the
cause; a `Picture` becomes RGB or grey pixels or an `ImageError`. No other exception and no warning comes out.

How pixels are made:
- EXIF orientation is applied. The first frame of an animation or of several pages is taken.
- 16-bit grey is scaled: round(value / 257). 16-bit colour keeps its high byte, as Pillow reads it. Grey of 32-bit
  integers or floats is taken as [0, 1] (floats only), [0, 255] or [0, 65535], the smallest that holds every value,
  and otherwise stretched from its least to its greatest value.
- Transparency of any kind (alpha, palette, one colour) is laid on white.
- CMYK is converted as Pillow does it, without colour profiles (JPEGs of four components are taken as Adobe's inverted
  ones); LAB through Pillow's colour management. Colour profiles of RGB pictures are not applied.
- Grey is ITU-R 601-2 luma of the RGB values.

What is refused, before any decoding: what is no regular file (without waiting on a pipe), more bytes or pixels than
`ImageLimits`, formats outside its list, and headers that claim absurd work (`headers.py`). A truncated picture is
refused whole; damage inside JPEG data that leaves its length right is not detectable. Time and memory are bounded by
the limits: decoding takes at its peak 10 bytes per pixel for most pictures (measured), 13 for progressive JPEGs and up
to 18 for transparent ones, WebP and floats, so 1.2 GB at 64 megapixels.

How JPEGs are decoded: `jpeg.py`.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vitrail.data.config import ImageLimits
from vitrail.data.headers import (
    HeaderError,
    JpegHeader,
    bare_tiff,
    read_jpeg_header,
    read_orientation,
    read_webp_size,
    sniff_format,
)
from vitrail.data.jpeg import decode_jpeg, decode_jpeg_top
from vitrail.data.modes import to_8_bit
from vitrail.errors import ImageError

# What undoes each EXIF orientation (EXIF 2.3, section 4.6.4, tag 274).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEFAULT_LIMITS = ImageLimits()
_MIN_SCALED_SIDE = 16  # below this a shrunken decoding saves nothing


class Picture:
    """One opened picture: its header is known and within the limits, its pixels are not decoded yet.

    Attributes:
        name: how messages call it.
        size: (height, width) in pixels, after EXIF orientation.
        format: "JPEG", "PNG", ...; "array" for pixels that were in memory already.
        mode: the stored colours, by Pillow's name ("RGB", "L", "P", "I;16", "CMYK", ...).
        data: the file's bytes, or those of them that decide its pixels; None for pixels in memory.
    """

    format: str
    mode: str
    data: bytes | None = None

    def __init__(self, name: str, stored_size: tuple[int, int], orientation: int) -> None:
        height, width = stored_size
        self.name = name
        self.size = (width, height) if orientation >= 5 else (height, width)
        self._orientation = orientation

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size}, format={self.format!r}, mode={self.mode!r})"

    def pixels(self, at_least: tuple[int, int] | None = None, num_channels: int = 3) -> np.ndarray:
        """Decode to (height, width, num_channels) uint8, a fresh array; RGB for 3 channels, grey for 1.

        Args:
            at_least: (height, width), after orientation. A JPEG is decoded at the smallest of the DCT scales 1, 1/2,
                1/4 and 1/8 whose size is no smaller on both sides; every other format at full size.
        Raises:
            ImageError: the file is truncated or damaged, or memory does not suffice.
        """
        array = np.array(self.image(at_least, num_channels))
        return array[:, :, None] if num_channels == 1 else array

    def image(self, at_least: tuple[int, int] | None = None, num_channels: int = 3) -> Image.Image:
        """As `pixels`, but as a Pillow image of mode "RGB" or "L", which transforms resize without another copy."""
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels {num_channels} is neither 1 (grey) nor 3 (RGB)")
        try:
            image = to_8_bit(self._decode(self._factor(at_least)), self.format)
            wanted = "L" if num_channels == 1 else "RGB"
            if image.mode != wanted:
                image = image.convert(wanted)
            if self._orientation in _UPRIGHT:
                image = image.transpose(_UPRIGHT[self._orientation])
        except MemoryError:
            raise self._too_large() from None
        except Exception as error:  # decoders fail with whatever they stumble over
            raise ImageError(self.name, _cause(error, "cannot be decoded")) from error
        return image

    def is_full_size(self, at_least: tuple[int, int]) -> bool:
        """Whether `pixels` of the same `at_least` decodes at full size."""
        return self._factor(at_least) == 1

    def region(self, box: tuple[int, int, int, int], num_channels: int = 3) -> np.ndarray:
        """The pixels inside `box` (left, top, right, bottom): (height, width, num_channels) uint8.

        They lie in memory that the next call of this thread may write to. They are those of `pixels()` at full size,
        bit for bit; of a JPEG no row is decoded that does not matter for them. A truncated file is refused wherever
        the box lies.

        Raises:
            ImageError: as `pixels`.
        """
        left, top, right, bottom = box
        try:
            pixels = self._top(bottom) if num_channels == 3 else None
        except MemoryError:
            raise self._too_large() from None
        if pixels is None:
            pixels = np.array(self.image(None, num_channels).crop(box))
            return pixels[:, :, None] if num_channels == 1 else pixels
        return pixels[top:bottom, left:right]

    def _top(self, bottom: int) -> np.ndarray | None:
        """(bottom or more, width, 3): the upper rows as RGB, where these can be had sooner than the whole."""
        return None

    def _too_large(self) -> ImageError:
        return ImageError(self.name, f"{_megapixels(self.size)} do not fit in memory")

    def _factor(self, at_least: tuple[int, int] | None) -> int:
        """By how much both sides shrink when the picture is decoded to cover `at_least`."""
        return 1

    def _decode(self, factor: int) -> Image.Image:
        raise NotImplementedError


class _JpegPicture(Picture):
    format = "JPEG"
    data: bytes

    def __init__(self, name: str, data: bytes, header: JpegHeader) -> None:
        super().__init__(name, (header.height, header.width), header.orientation)
        self.mode = {1: "L", 3: "RGB"}.get(header.components, "CMYK")
        self.data, self._header = data, header

    def _decode(self, factor: int) -> Image.Image:
        return decode_jpeg(self.data, self._header, self.mode, factor)

    def _factor(self, at_least: tuple[int, int] | None) -> int:
        """The greatest of 1, 2, 4, 8 by which both sides may shrink and still cover `at_least`."""
        if at_least is None:
            return 1
        needed = (max(at_least[0], _MIN_SCALED_SIDE), max(at_least[1], _MIN_SCALED_SIDE))
        for factor in (8, 4, 2):
            if all(-(-side // factor) >= least for side, least in zip(self.size, needed, strict=True)):
                return factor
        return 1

    def _top(self, bottom: int) -> np.ndarray | None:
        if self.mode != "RGB" or self._orientation != 1:
            return None
        return decode_jpeg_top(self.data, self._header, bottom)


class _FilePicture(Picture):
    data: bytes

    def __init__(self, name: str, data: bytes, kind: str, image: Image.Image) -> None:
        # Pillow turns TIFFs upright itself.
        exif = image.info.get("exif") if kind != "TIFF" else None
        orientation = read_orientation(exif) if isinstance(exif, bytes) else 1
        super().__init__(name, (image.height, image.width), orientation)
        self.format, self.mode = kind, image.mode
        self.data = data
        # Only these readers warn while they decode, so that all others decode in several threads at once.
        self._may_warn = kind not in _READERS or kind == "TIFF" or (kind == "PNG" and b"acTL" in data)

    def _decode(self, factor: int) -> Image.Image:
        with _quiet() if self._may_warn else nullcontext():
            image = _open_with_pillow(self.data, self.format)
            image.load()
        return image


class _ArrayPicture(Picture):
    format = "array"

    def __init__(self, name: str, image: Image.Image) -> None:
        super().__init__(name, (image.height, image.width), 1)
        self.mode = image.mode
        self._image = image

    def _decode(self, factor: int) -> Image.Image:
        return self._image


def open_picture(
    source: str | Path | bytes | BinaryIO, name: str | None = None, limits: ImageLimits = _DEFAULT_LIMITS
) -> Picture:
    """Read a file, bytes or an open binary file, and check all its header says against `limits`; decode nothing.

    Args:
        name: how messages call the picture; default the path.
    Raises:
        ImageError: it is no regular file, cannot be read, is empty, too large, of no allowed format, or damaged.
    """
    if name is None:
        name = str(source) if isinstance(source, (str, Path)) else str(getattr(source, "name", "picture"))
    try:
        data = _read(source, limits.max_bytes)
        return _open(data, name, limits)
    except HeaderError as error:
        raise ImageError(name, str(error)) from None
    except MemoryError:
        raise ImageError(name, "does not fit in memory") from None
    except Exception as error:  # header readers fail with whatever they stumble over
        raise ImageError(name, _cause(error, "damaged header")) from error


def picture_from_array(pixels: np.ndarray, name: str) -> Picture:
    """A picture of pixels in memory: (height, width) or (height, width, 1, 3 or 4) uint8; 4 is RGB and alpha."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(f"{name}: pixels of {pixels.dtype} {pixels.shape} are not uint8 (height, width[, channels])")
    if 0 in pixels.shape:
        raise ValueError(f"{name}: pixels of shape {pixels.shape} are empty")
    return _ArrayPicture(name, Image.fromarray(np.ascontiguousarray(pixels)))


def _open(data: bytes, name: str, limits: ImageLimits) -> Picture:
    if not data:
        raise HeaderError("empty file")
    kind = sniff_format(data) or _identify(data, limits.formats)
    if kind is None:
        raise HeaderError(f"not a picture of a known format (it begins with {data[:12]!r})")
    if kind not in limits.formats:
        raise HeaderError(f"{kind} is not among the allowed formats {', '.join(limits.formats)}")
    if kind == "JPEG":
        header = read_jpeg_header(data)
        _check_pixels((header.height, header.width), limits)
        return _JpegPicture(name, data, header)
    if kind == "WEBP" and (canvas := read_webp_size(data)):
        _check_pixels(canvas, limits)
    if kind == "TIFF":
        data = bare_tiff(data, limits.max_pixels)
    with _quiet():
        image = _open_with_pillow(data, kind)
    _check_pixels((image.height, image.width), limits)
    return _FilePicture(name, data, kind, image)


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise HeaderError(f"{_megapixels(size)}, above the limit of {limits.max_pixels / 1e6:g} megapixels")


def _megapixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} = {size[0] * size[1] / 1e6:.3g} megapixels"


def _read(source: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    """The bytes of a regular file; a pipe or device is refused without waiting on it."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, Path)):
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise HeaderError("not a regular file")
        # The file may have been exchanged since: open without waiting, then look again at what was opened.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise HeaderError("not a regular file")
            _check_bytes(status.st_size, max_bytes)
            data = _read_stream(file, max_bytes, status.st_size + 1)
    else:
        data = _read_stream(source, max_bytes)
    _check_bytes(len(data), max_bytes)
    return data


def _read_stream(file: BinaryIO | io.RawIOBase, max_bytes: int, first: int = 1 << 24) -> bytes:
    """All of a stream, or more than `max_bytes` of it; `first`: bytes to ask for at first, because Python takes memory
    for what is asked for, not for what comes."""
    blocks, total, size = [], 0, first
    while total <= max_bytes and (block := file.read(min(max_bytes + 1 - total, size))):
        blocks.append(block)
        total += len(block)
        size = 1 << 16 if len(block) < size else 1 << 24
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _check_bytes(number: int, max_bytes: int) -> None:
    if number > max_bytes:
        raise HeaderError(f"{number / 1e6:.3g} MB, above the limit of {max_bytes / 1e6:.3g} MB")


# Called directly: Image.open loads some forty plug-ins before it gives a file up.
_READERS: dict[str, Callable[[BinaryIO], Image.Image]] = {
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "PPM": PpmImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
}


def _open_with_pillow(data: bytes, kind: str) -> Image.Image:
    stream = io.BytesIO(data)
    return _READERS[kind](stream) if kind in _READERS else Image.open(stream, formats=(kind,))


def _identify(data: bytes, formats: tuple[str, ...]) -> str | None:
    """Ask Pillow, where a caller allows formats that `sniff_format` does not know."""
    others = tuple(kind for kind in formats if kind not in (*_READERS, "JPEG"))
    if not others:
        return None
    with _quiet(), Image.open(io.BytesIO(data), formats=others) as image:
        return image.format


_quiet_lock = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings in. One thread at a time, because the list of filters belongs to the whole process."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unlock_after_fork() -> None:
    global _quiet_lock
    _quiet_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a loader worker must not wait for a thread that it did not inherit
    os.register_at_fork(after_in_child=_unlock_after_fork)


def _cause(error: Exception, fallback: str) -> str:
    """One short clause for what a decoder or the system said."""
    if isinstance(error, HeaderError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({(error.strerror or str(error)).lower()})"
    text = " ".join(re.sub(r"<[^>]*>|'[^']*object at[^']*'", "", str(error)).split()) or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated file"
    return f"{fallback} ({text[:100]})"
