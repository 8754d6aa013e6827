"""What is kept of each picture to find its copies in another data set: a digest, 64-bit hashes and small thumbnails.

The hash is the perceptual hash of pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions"): the picture as 32 x 32 grey pixels, its discrete cosine transform, the signs of 64 low frequencies against
their median. It is kept of the whole picture and of its middle, `CROP` cut off on each side, so that a copy cut by so
much has the hash of the other's middle; a mirrored picture has the same frequencies with every second sign changed.
Hashes only propose pairs: the thumbnails decide, by `duplicates.residuals`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrail.data.duplicates import MIN_CONTRAST, SMALL_SIDE, THUMBNAIL_SIZE
from vitrail.data.images import Picture, open_picture
from vitrail.data.sources.base import DEFAULT_LIMITS, Source
from vitrail.errors import ImageError

CROP = 0.05  # of the height and the width, cut off on each side for the hash of the middle
HASH_SIDE = 32  # pixels
NUM_FREQUENCIES = 8  # on each axis, from the first that is not constant
VIEWS = ("whole", "middle")
_DECODED_SIDE = 64  # pixels at least, where the picture has them
_PART = 64  # pictures a task of a thread takes


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Of the N pictures of a source; rows of broken ones hold zeros."""

    digests: npt.NDArray[np.uint64]  # (N, 2), the first 16 bytes of SHA-256 of the file, or of the pixels without one
    hashes: npt.NDArray[np.uint64]  # (N, 2), of the whole picture and of its middle
    mirrored: npt.NDArray[np.uint64]  # (N, 2), the same of the picture mirrored left to right
    thumbnails: npt.NDArray[np.uint8]  # (N, 2, 16, 16, 3)
    small: npt.NDArray[np.bool_]  # (N,) a side is below SMALL_SIDE pixels
    varied: npt.NDArray[np.bool_]  # (N,) enough contrast for a hash to mean something
    broken: dict[int, str]  # index -> cause

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        usable = np.ones(len(self.small), dtype=bool)
        usable[list(self.broken)] = False
        return usable


def fingerprint(
    source: Source, num_threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> Fingerprints:
    """Open every picture of `source` once; about 1.6 kB is kept of each.

    Args:
        progress: called with (pictures done, pictures in all), from the calling thread.
    """
    total = len(source)
    prints = Fingerprints(
        digests=np.zeros((total, 2), np.uint64),
        hashes=np.zeros((total, 2), np.uint64),
        mirrored=np.zeros((total, 2), np.uint64),
        thumbnails=np.zeros((total, 2, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), np.uint8),
        small=np.zeros(total, bool),
        varied=np.zeros(total, bool),
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
    return prints


def _look(source: Source, prints: Fingerprints, start: int) -> int:
    part = range(start, min(start + _PART, len(source)))
    grey = np.zeros((len(part), 2, HASH_SIDE, HASH_SIDE), np.float32)
    for place, index in enumerate(part):
        try:
            data = source.read_bytes(index)
            if data is None:
                picture = source.open(index)
                pixels = picture.pixels()
                digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes())
            else:
                digest = hashlib.sha256(data)
                picture = open_picture(data, name=source.key(index), limits=DEFAULT_LIMITS)
            grey[place], prints.thumbnails[index] = views(picture)
        except ImageError as error:
            prints.broken[index] = error.cause
            continue
        prints.digests[index] = np.frombuffer(digest.digest()[:16], dtype=np.uint64)
        prints.small[index] = min(picture.size) < SMALL_SIDE
    rows = slice(part.start, part.stop)
    prints.hashes[rows], prints.mirrored[rows] = perceptual_hashes(grey)
    colours = prints.thumbnails[rows, 0].astype(np.float32)
    prints.varied[rows] = np.sqrt(colours.var(axis=(1, 2)).mean(axis=1)) >= MIN_CONTRAST
    return len(part)


def views(picture: Picture) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The whole picture and its middle, as grey (2, 32, 32) and as thumbnails (2, 16, 16, 3). Raises ImageError."""
    image = picture.image((_DECODED_SIDE, _DECODED_SIDE))
    height, width = image.height, image.width
    boxes = [(0.0, 0.0, float(width), float(height))]
    boxes.append((CROP * width, CROP * height, (1 - CROP) * width, (1 - CROP) * height))
    grey, small = [], []
    for box in boxes:
        view = image.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX, box=box)
        grey.append(np.asarray(view.convert("L"), dtype=np.float32))
        thumbnail = image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.HAMMING, box=box)
        small.append(np.asarray(thumbnail))
    return np.stack(grey), np.stack(small)


def perceptual_hashes(
    grey: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(..., 32, 32) grey pixels -> (...) hashes, and those of the same pixels mirrored left to right."""
    frequencies = np.arange(1, NUM_FREQUENCIES + 1)[:, None]
    places = np.arange(HASH_SIDE)[None, :]
    cosines = np.cos(np.pi * frequencies * (2 * places + 1) / (2 * HASH_SIDE)).astype(np.float32)
    coefficients = np.asarray(cosines @ grey @ cosines.T, dtype=np.float32)  # (..., 8 down, 8 across)
    odd = (1 - 2 * (frequencies[:, 0] % 2)).astype(np.float32)
    return _signs(coefficients), _signs(np.asarray(coefficients * odd, dtype=np.float32))


def _signs(coefficients: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    flat = coefficients.reshape(*coefficients.shape[:-2], NUM_FREQUENCIES**2)
    bits = flat > np.median(flat, axis=-1, keepdims=True)
    packed = np.packbits(bits, axis=-1).view(">u8")[..., 0]
    return np.asarray(packed, dtype=np.uint64)
