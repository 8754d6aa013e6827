"""What is kept of each picture to find its copies in another data set: a digest, a thumbnail and 64-bit hashes.

The hash is the perceptual hash of pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions"): the picture as 32 x 32 grey pixels, its discrete cosine transform, the signs of 64 low frequencies against
their median. It is kept of the whole picture and of 15 windows, `CROP` cut off at any of its edges, so that a copy cut
at some edges has the hash of one of the other's windows; a mirrored picture has the same frequencies with every second
sign changed. Hashes only propose pairs: the thumbnails decide, see copies.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrail.data.duplicates import MIN_CONTRAST
from vitrail.data.images import Picture, open_picture
from vitrail.data.sources.base import DEFAULT_LIMITS, Source
from vitrail.errors import ImageError

CROP = 0.05  # of the height or the width, cut off at an edge
SIDE = 32  # pixels of a thumbnail
NUM_FREQUENCIES = 8  # on each axis, from the first that is not constant
_SPANS = ((0.0, 1.0), (CROP, 1.0), (0.0, 1 - CROP), (CROP, 1 - CROP))
# (16, 4): top, bottom, left and right of each window as shares; the first is the whole picture.
WINDOWS = np.array([(*down, *across) for down in _SPANS for across in _SPANS], dtype=np.float32)
MIN_DETAILED = 0.5  # of a picture's blocks; 1 to 5 % of photographs have fewer, 95 % of handwritten digits
MAX_SPARSE = 0.1  # of a set's pictures: with more, it is one of strokes, in which others are as alike as copies are
_BLOCK_SIDE = 4
_DECODED_SIDE = 64  # pixels at least, where the picture has them
_PART = 64  # pictures a task of a thread takes


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Of the N pictures of a source; rows of broken ones hold zeros."""

    digests: npt.NDArray[np.uint64]  # (N, 2), the first 16 bytes of SHA-256 of the file, or of the pixels without one
    hashes: npt.NDArray[np.uint64]  # (N, 16), of each of WINDOWS
    mirrored: npt.NDArray[np.uint64]  # (N, 16), the same windows mirrored left to right
    thumbnails: npt.NDArray[np.uint8]  # (N, 32, 32, 3), the whole picture squashed
    sides: npt.NDArray[np.int64]  # (N,) the smaller side in pixels
    varied: npt.NDArray[np.bool_]  # (N,) enough contrast for a hash to mean something
    sparse: npt.NDArray[np.bool_]  # (N,) less than half of it shows anything, in a set of such pictures: strokes
    broken: dict[int, str]  # index -> cause

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        usable = np.ones(len(self.sides), dtype=bool)
        usable[list(self.broken)] = False
        return usable


def fingerprint(
    source: Source, num_threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> Fingerprints:
    """Open every picture of `source` once; about 3.4 kB is kept of each.

    Args:
        progress: called with (pictures done, pictures in all), from the calling thread.
    """
    total = len(source)
    prints = Fingerprints(
        digests=np.zeros((total, 2), np.uint64),
        hashes=np.zeros((total, len(WINDOWS)), np.uint64),
        mirrored=np.zeros((total, len(WINDOWS)), np.uint64),
        thumbnails=np.zeros((total, SIDE, SIDE, 3), np.uint8),
        sides=np.zeros(total, np.int64),
        varied=np.zeros(total, bool),
        sparse=np.zeros(total, bool),
        broken={},
    )
    executor = ThreadPoolExecutor(num_threads)
    done = 0
    try:
        starts = range(0, total, _PART)
        for number in executor.map(lambda start: _look(source, prints, start), starts):
            done += number
            if progress is not None:
                progress(done, total)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    if prints.sparse.sum() <= MAX_SPARSE * total:
        prints.sparse[:] = False  # a few bare pictures among photographs are compared as those are
    return prints


def _look(source: Source, prints: Fingerprints, start: int) -> int:
    part = range(start, min(start + _PART, len(source)))
    for index in part:
        try:
            data = source.read_bytes(index)
            if data is None:
                picture = source.open(index)
                pixels = picture.pixels()
                digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes())
            else:
                digest = hashlib.sha256(data)
                picture = open_picture(data, name=source.key(index), limits=DEFAULT_LIMITS)
            prints.thumbnails[index] = thumbnail(picture)
        except ImageError as error:
            prints.broken[index] = error.cause
            continue
        prints.digests[index] = np.frombuffer(digest.digest()[:16], dtype=np.uint64)
        prints.sides[index] = min(picture.size)
    rows = slice(part.start, part.stop)
    colours = prints.thumbnails[rows].astype(np.float32)
    grey = colours @ _LUMA
    prints.hashes[rows], prints.mirrored[rows] = perceptual_hashes(grey)
    prints.varied[rows] = np.sqrt(colours.var(axis=(1, 2)).mean(axis=1)) >= MIN_CONTRAST
    prints.sparse[rows] = _detailed_share(grey) < MIN_DETAILED
    return len(part)


def thumbnail(picture: Picture) -> npt.NDArray[np.uint8]:
    """(32, 32, 3). Raises ImageError."""
    image = picture.image((_DECODED_SIDE, _DECODED_SIDE))
    # Lanczos leaves the least that moves when the picture is cut: a striped shirt has the same stripes in each window.
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _detailed_share(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, 32, 32) -> (N,) the share of its blocks of 4 x 4 pixels that are not plain."""
    count = SIDE // _BLOCK_SIDE
    blocks = grey.reshape(len(grey), count, _BLOCK_SIDE, count, _BLOCK_SIDE)
    return np.asarray((blocks.std(axis=(2, 4)) >= MIN_CONTRAST).mean(axis=(1, 2)))


def perceptual_hashes(
    grey: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(N, 32, 32) grey pixels -> (N, 16) hashes of WINDOWS, and those of the windows mirrored left to right."""
    both = (_COSINES @ grey @ _COSINES.T).reshape(len(grey), len(_SPANS), NUM_FREQUENCIES, len(_SPANS), NUM_FREQUENCIES)
    coefficients = both.transpose(0, 1, 3, 2, 4).reshape(len(grey), len(WINDOWS), NUM_FREQUENCIES, NUM_FREQUENCIES)
    odd = (1 - 2 * (np.arange(1, NUM_FREQUENCIES + 1) % 2)).astype(np.float32)
    return _signs(coefficients), _signs(np.asarray(coefficients * odd, dtype=np.float32))


def _signs(coefficients: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    flat = coefficients.reshape(*coefficients.shape[:-2], NUM_FREQUENCIES**2)
    bits = flat > np.median(flat, axis=-1, keepdims=True)
    packed = np.packbits(bits, axis=-1).view(">u8")[..., 0]
    return np.asarray(packed, dtype=np.uint64)


def _cosines(low: float, high: float) -> npt.NDArray[np.float32]:
    """(8, 32): the waves of the window from low to high, integrated over each pixel or the part of it inside."""
    edges = np.clip(np.arange(SIDE + 1) / SIDE, low, high)
    waves = np.pi * np.arange(1, NUM_FREQUENCIES + 1)[:, None]
    return np.asarray(np.diff(np.sin(waves * (edges - low) / (high - low)) / waves, axis=1), dtype=np.float32)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_COSINES = np.concatenate([_cosines(low, high) for low, high in _SPANS])  # (4 spans x 8 frequencies, 32)
