"""The kernels of pixel_kernels.c: compiled once for each machine, checked before they are believed; free of torch."""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path

import numpy as np

from vitrail.data.config import Interpolation
from vitrail.native import compiled_library

_NEEDS = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni")
_KEPT = 2048  # axes: a few kilobytes each; crops of photographs have some hundred sizes
_MOST_BITS = 22  # of a weight's fraction: sums of 8-bit pixels must fit into 32 bits


class Axis:
    """How one side is resized: output i is the sum of weights[i, k] * input[first[i] + k], over 2 ** precision.

    Attributes:
        first: (to,) int32, never falling.
        weights: (to, taps) int16; `taps` is even, and weights of inputs beyond the edge are 0.
        fields: the same as the kernel takes it.
    """

    def __init__(self, first: np.ndarray, weights: np.ndarray, from_size: int, precision: int) -> None:
        self.first, self.weights, self.from_size, self.precision = first, weights, from_size, precision
        numbers = (first.ctypes.data, weights.ctypes.data, from_size, *weights.shape, precision)
        self.fields = (ctypes.c_int64 * len(numbers))(*numbers)


@functools.lru_cache(_KEPT)
def axis(from_size: int, to_size: int, interpolation: Interpolation) -> Axis:
    """The weights that torch takes for antialiased uint8 pixels: float64, each output's scaled to the sum 1, then as
    many bits as the largest weight leaves of 16 (its `_compute_index_ranges_int16_weights`)."""
    scale = from_size / to_size
    reach = (1.0 if interpolation == "bilinear" else 2.0) * max(scale, 1.0)
    most = 2 * math.ceil(reach) + 1
    centre = scale * (np.arange(to_size) + 0.5)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    taps = np.minimum(np.minimum((centre + reach + 0.5).astype(np.int64), from_size) - first, most)
    tap = np.arange(taps.max() + taps.max() % 2)[:, None]  # one row a tap, so that sums are taken in torch's order
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    weights = np.where(tap < taps, _filter((tap + first - centre + 0.5) * inverse, interpolation), 0.0)
    weights /= weights.sum(0)
    largest, precision = weights.max(), 0
    while precision < _MOST_BITS and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    scaled = weights * (1 << precision)
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int16)
    return Axis(first.astype(np.int32), np.ascontiguousarray(whole.T), from_size, precision)


def _filter(x: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """A triangle, or Keys' cubic with a = -1/2 (Keys 1981, eq. 15), in torch's order of operations."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


class PixelKernels:
    """The functions of the library.

    Args:
        library: compiled from pixel_kernels.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._resize, self._look_up = library.resize, library.look_up
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._resize.argtypes = (pointer, number, number, pointer, pointer, number, pointer)
        self._look_up.argtypes = (pointer, number, pointer, pointer)
        self._look_up.restype = None

    def resize(
        self, pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation, mirrored: bool
    ) -> np.ndarray:
        """(height, width, 1 or 3) uint8, rows of any stride -> (channels, *size) uint8, contiguous."""
        height, width, channels = pixels.shape
        if pixels.strides[1:] != (channels, 1):
            pixels = np.ascontiguousarray(pixels)
        result = np.empty((channels, *size), dtype=np.uint8)
        across, down = axis(width, size[1], interpolation), axis(height, size[0], interpolation)
        place, row = pixels.ctypes.data, pixels.strides[0]
        if self._resize(place, row, channels, across.fields, down.fields, mirrored, result.ctypes.data) != 0:
            raise MemoryError("no memory to resize a picture")
        return result

    def look_up(self, images: np.ndarray, tables: np.ndarray, result: np.ndarray) -> None:
        """result[b, c, ...] = tables[c][images[b, c, ...]].

        Args:
            images: (batch, channels, ...) uint8.
            tables: (channels, 256) float32.
            result: of the shape of images, float32. All three contiguous.
        """
        batch, channels = images.shape[:2]
        count = images[0, 0].size if batch else 0
        for plane in range(batch * channels):
            table = tables.ctypes.data + plane % channels * tables.strides[0]
            self._look_up(images.ctypes.data + plane * count, count, table, result.ctypes.data + 4 * plane * count)


@functools.cache
def pixel_kernels() -> PixelKernels | None:
    """The kernels; None where the processor has not what they need, nothing can compile them, or what was compiled does
    not compute what it should."""
    library = compiled_library(Path(__file__).with_suffix(".c"), _NEEDS)
    if library is None:
        return None
    kernels = PixelKernels(library)
    return kernels if _is_right(kernels) else None


def _is_right(kernels: PixelKernels) -> bool:
    """Whether the kernels do on a few pictures what NumPy does: a compiler may be broken."""
    draw = np.random.default_rng(0)
    cases: list[tuple[tuple[int, int, int], tuple[int, int], Interpolation]] = [
        ((40, 90, 3), (30, 70), "bilinear"),
        ((33, 47, 3), (50, 18), "bicubic"),
        ((9, 300, 1), (5, 33), "bilinear"),
    ]
    for shape, size, interpolation in cases:
        pixels = draw.integers(0, 256, shape, dtype=np.uint8)[1:, 2:]
        for mirrored in (False, True):
            found = kernels.resize(pixels, size, interpolation, mirrored)
            if not np.array_equal(found, plain_resize(pixels, size, interpolation, mirrored)):
                return False
    images = draw.permutation(512).astype(np.uint8)[:510].reshape(1, 2, 255)  # all bytes, whole registers and a rest
    tables, values = draw.random((2, 256), dtype=np.float32), np.empty(images.shape, dtype=np.float32)
    kernels.look_up(images, tables, values)
    return np.array_equal(values, np.stack([tables[channel][images[:, channel]] for channel in (0, 1)], axis=1))


def plain_resize(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation, mirrored: bool) -> np.ndarray:
    """What the kernel computes, by NumPy."""
    height, width, _ = pixels.shape
    rows = _along(pixels.transpose(2, 0, 1), axis(width, size[1], interpolation))
    result = _along(rows.transpose(0, 2, 1), axis(height, size[0], interpolation)).transpose(0, 2, 1)
    return np.ascontiguousarray(result[:, :, ::-1] if mirrored else result)


def _along(lines: np.ndarray, axis: Axis) -> np.ndarray:
    """(..., from) uint8 -> (..., to) uint8."""
    taps = np.arange(axis.weights.shape[1])
    inputs = lines[..., np.minimum(axis.first[:, None] + taps, axis.from_size - 1)].astype(np.int32)
    sums = (inputs * axis.weights).sum(-1) + (1 << (axis.precision - 1))
    return np.clip(sums >> axis.precision, 0, 255).astype(np.uint8)
