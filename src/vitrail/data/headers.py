"""What a picture's first bytes say: format, size, EXIF orientation, and claims that would cost too much to follow.

Everything here walks bytes that may be hostile: every read is bounded, nothing is allocated by what a header claims.
Refusals are `HeaderError`s, whose message is a short clause; `images.py` adds the file's name.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_JPEG_SEGMENTS = 10_000  # a camera writes a few dozen; a 16 MB colour profile needs 256
MAX_JPEG_SCANS = 100  # encoders write about ten; each one costs a pass over all coefficients
MAX_TIFF_SAMPLES = 8  # red, green, blue, alpha, and some to spare; headers of 65,535 are hostile
MAX_TIFF_PIECES = 100_000  # strips or tiles; Pillow keeps a Python object for each

# Names are Pillow's. A format outside ImageLimits.formats is known here so that the refusal can name it.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"jP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"8BPS", "PSD"),
    (0, b"\x01\xda", "SGI"),
    (0, b"DDS ", "DDS"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"BM", "BMP"),
)


class HeaderError(ValueError):
    """A header that cannot be read or claims too much; the message is one short clause."""


def sniff_format(data: bytes) -> str | None:
    """The picture format that `data` begins like, by Pillow's name, or None. File names are never believed."""
    for offset, magic, name in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return name
    if re.match(rb"P[1-7fFy]\s", data) or data[:3] == b"P0C":
        return "PPM"
    return None


@dataclass(frozen=True)
class JpegHeader:
    """`height`, `width`: as stored, before `orientation` (EXIF, 1 to 8). `components`: 1 grey, 3 colour, 4 CMYK."""

    height: int
    width: int
    components: int
    orientation: int
    # Rows of one row of MCUs (T.81, section A.2) where these come one after the other, from the top, in a single scan
    # of Huffman codes; 0 in all other JPEGs, progressive ones among them.
    mcu_rows: int
    _height_at: int = field(repr=False)
    _kept: tuple[tuple[int, int], ...] = field(repr=False)

    def bare(self, data: bytes) -> bytes:
        """The same JPEG without EXIF, colour profiles, previews and comments: all that decides its pixels, no more."""
        return b"".join(data[start:end] for start, end in self._kept)

    def rows_until(self, bottom: int) -> int:
        """The least height of a shortened JPEG whose rows above `bottom` are those of the whole one.

        Whole MCUs, and a row more than is needed: upsampling colours looks at the row below, and the last one has none.
        """
        if self.mcu_rows == 0:
            return self.height
        return min(self.height, -(-(bottom + 1) // self.mcu_rows) * self.mcu_rows)

    def shortened(self, data: bytes | bytearray, height: int) -> bytearray:
        """The same JPEG with another height in its header, so that a decoder stops when it has that many rows."""
        copy = bytearray(data)
        struct.pack_into(">H", copy, self._height_at, height)
        return copy


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Walk the segments of a JPEG up to its first scan (ITU-T T.81, annex B).

    Raises:
        HeaderError: no frame or scan, samples of other than 8 bits, or more segments or scans than any encoder writes.
    """
    frame: tuple[int, int, int, int] | None = None
    frame_at = mcu_rows = 0
    progressive = False
    orientation = 0
    kept = [(0, 2)]
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        start, marker = _next_marker(data, position)
        if marker == 0xD9:
            break
        end = start + 2 + _length(data, start + 2)
        if marker == 0xDA:
            if frame is None:
                raise HeaderError("JPEG with a scan before any frame header")
            precision, height, width, components = frame
            if precision != 8:
                raise HeaderError(f"JPEG of {precision}-bit samples, of which only 8-bit ones can be read")
            if height < 1 or width < 1:
                raise HeaderError(f"JPEG of {width}x{height} pixels")
            if end > len(data):
                break
            # A first scan of all components in a sequential frame is the only one: most JPEGs need no further walk.
            if progressive or data[start + 4] != components:
                _check_scans(data, start)
                mcu_rows = 0
            kept.append((start, len(data)))
            return JpegHeader(height, width, components, orientation or 1, mcu_rows, frame_at + 5, tuple(kept))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if start + 10 > len(data):
                break
            frame, frame_at = struct.unpack_from(">BHHB", data, start + 4), start
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            # Of each component an identity, both sampling factors in one byte, and a table.
            factors = data[start + 11 : start + 10 + 3 * frame[3] : 3]
            mcu_rows = 8 * max((factor & 15 for factor in factors), default=0) if marker in (0xC0, 0xC1) else 0
        if marker == 0xE1 and not orientation and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = read_orientation(data[start + 10 : end])
        if marker not in _NOT_PIXELS:
            kept.append((start, end))
        position = end
    else:
        raise HeaderError(f"JPEG with more than {MAX_JPEG_SEGMENTS} header segments")
    raise HeaderError("truncated before its first scan")


# Comments and all application segments but APP0 (JFIF) and APP14 (Adobe), which tell how the colours are coded.
_NOT_PIXELS = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
# 0xFF followed by what is neither a stuffed zero, a fill byte nor a restart marker (or TEM): the start of a segment.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Where the next marker stands at or after `position`, and its second byte; (end, 0xD9) where there is none."""
    found = _MARKER.search(data, position)
    return (found.start(), data[found.start() + 1]) if found else (len(data), 0xD9)


def _length(data: bytes, position: int) -> int:
    if position + 2 > len(data):
        raise HeaderError("truncated before its first scan")
    return max(2, data[position] << 8 | data[position + 1])


def _check_scans(data: bytes, position: int) -> None:
    """Refuse thousands of empty scans over a large picture, which take hours to decode (libjpeg-turbo LJT-01-004)."""
    scans = 0
    for _ in range(MAX_JPEG_SEGMENTS):
        start, marker = _next_marker(data, position)
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > MAX_JPEG_SCANS:
            raise HeaderError(f"JPEG of more than {MAX_JPEG_SCANS} scans")
        # Bytes after a damaged segment may look like one: step over the marker alone where the length leads outside.
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + (length if marker == 0xDA or start + 2 + length <= len(data) else 0)
    raise HeaderError(f"JPEG of more than {MAX_JPEG_SEGMENTS} segments")


def read_orientation(exif: bytes) -> int:
    """EXIF orientation (tag 0x0112 of the first directory): 1 to 8; 1 where it is absent, damaged or out of range."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == 0x0112:
            value = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)[0]
            return int(value) if 1 <= value <= 8 else 1
    return 1


def read_webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the canvas, which libwebp allocates as soon as a file is opened; None where unknown."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
    if kind == b"VP8 " and len(body) == 10:
        return int.from_bytes(body[8:10], "little") & 0x3FFF, int.from_bytes(body[6:8], "little") & 0x3FFF
    return None


# Bytes of a value by its type, 1 to 18 (TIFF 6.0, section 2; 16 to 18 are BigTIFF's).
_TIFF_TYPE_SIZES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1))
# Size, layout, compression, colours, orientation: all tags that decide pixels (TIFF 6.0; 347 from technical note 2).
_LAYOUT_TAGS = frozenset({254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296})
_CODING_TAGS = frozenset(
    {292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), *range(529, 533)}
)
_PIXEL_TAGS = _LAYOUT_TAGS | _CODING_TAGS


def bare_tiff(data: bytes, max_pixels: int) -> bytes:
    """The same TIFF with a directory of its first picture's pixel tags alone, after checking what these claim.

    Tags may all point at the same bytes, so a small file can claim gigabytes of tag data; sub-directories multiply
    that; one tile may be far larger than the picture; a million strips become a million Python objects.

    Raises:
        HeaderError: such claims, or a directory that cannot be read.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    order = "<" if data[:2] == b"II" else ">"
    header = 8 if big else 4
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, header)
        entries = {entry.tag: entry for entry in reversed([*_tiff_entries(data, start, order, big)])}
    except (struct.error, OverflowError):
        raise HeaderError("truncated before the end of its directory") from None
    if sum(entry.outside for entry in entries.values()) > len(data):
        raise HeaderError("TIFF whose tags claim more data than the file has")
    first = {tag: entry.value for tag, entry in entries.items()}
    if first.get(277, 1) > MAX_TIFF_SAMPLES:
        raise HeaderError(f"TIFF of {first[277]} samples per pixel, above the limit of {MAX_TIFF_SAMPLES}")
    if first.get(322, 1) * first.get(323, 1) > max_pixels:
        raise HeaderError(
            f"TIFF with tiles of {first[322]}x{first[323]} pixels, above the limit of {max_pixels} pixels"
        )
    pieces = max((entries[tag].number for tag in (273, 324) if tag in entries), default=0)
    if pieces > MAX_TIFF_PIECES:
        raise HeaderError(f"TIFF of {pieces} strips or tiles, above the limit of {MAX_TIFF_PIECES}")
    padding = b"\0" * (-len(data) % 8)
    where = struct.pack(order + ("Q" if big else "I"), len(data) + len(padding))
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    body = b"".join(entries[tag].raw for tag in sorted(entries))
    return b"".join((data[:header], where, data[2 * header :], padding, count, body, bytes(header)))


class _TiffEntry(NamedTuple):
    tag: int
    number: int  # of values
    outside: int  # bytes of values that stand outside the directory
    value: int  # the first one, where it stands inside
    raw: bytes


def _tiff_entries(data: bytes, start: int, order: str, big: bool) -> Iterator[_TiffEntry]:
    """The pixel tags of a directory."""
    count_format, entry_format, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (count,) = struct.unpack_from(order + count_format, data, start)
    first, entry_size = start + struct.calcsize(count_format), 12 + 8 * big
    for entry in range(first, min(first + entry_size * count, len(data) - entry_size + 1), entry_size):
        tag, kind, number = struct.unpack_from(order + entry_format, data, entry)
        size = number * _TIFF_TYPE_SIZES.get(kind, 0)
        if tag not in _PIXEL_TAGS or size > len(data):  # Pillow too passes over more than the file holds
            continue
        value_format = "H" if kind == 3 else "Q" if big and kind in (16, 17, 18) else "I"
        (value,) = struct.unpack_from(order + value_format, data, entry + entry_size - inline)
        yield _TiffEntry(tag, number, size if size > inline else 0, value, data[entry : entry + entry_size])
