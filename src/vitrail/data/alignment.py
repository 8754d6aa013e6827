"""Whether one picture shows what another shows, to the detail, after the frame of one is laid on the other.

A thumbnail is cut to a window whose four edges are moved until it fits the other best (Lucas and Kanade 1981, "An
iterative image registration technique": Gauss-Newton on the brightness), and then compared in the frequencies of its
cosine transform. Each is weighted by its height, as natural pictures have about equally much in each then (Field 1987,
"Relations between the statistics of natural images"), so that edges and texture count as much as "a bright shirt on
something dark", which many different pictures have in common.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FULL_SIDE = 64  # pixels; pictures with a smaller side have no detail of their own in the higher frequencies
NUM_FREQUENCIES, NUM_SMALL_FREQUENCIES = 20, 10  # on each axis, half waves across the picture; of 32 pixels
REACH = 0.03  # of the height and width: how far an edge may move
_NUM_STEPS = 2

Floats = npt.NDArray[np.float32]


def aligned(cut: Floats, whole: Floats, bounds: Floats) -> tuple[Floats, Floats]:
    """Cut thumbnails so that they show what others show.

    Args:
        cut, whole: (P, S, S, 3), pairs.
        bounds: (P, 4), where about the second lies in the first: top, bottom, left and right as shares.
    Returns:
        (P, S, S, 3), the windows of `cut`; and (P, 4), their bounds.
    """
    size = cut.shape[1]
    grey, target = cut.mean(axis=3, keepdims=True), _centred(whole.mean(axis=3))
    target /= np.linalg.norm(target, axis=1, keepdims=True) + 1e-6
    start, ramp = bounds, ((np.arange(size) + 0.5) / size).astype(np.float32)
    for _ in range(_NUM_STEPS):
        window = _windows(grey, bounds)[..., 0]
        down = np.gradient(window, axis=1) * size / (bounds[:, 1] - bounds[:, 0])[:, None, None]
        across = np.gradient(window, axis=2) * size / (bounds[:, 3] - bounds[:, 2])[:, None, None]
        changes = (down * (1 - ramp)[:, None], down * ramp[:, None], across * (1 - ramp), across * ramp)
        tangents = np.stack([_centred(change) for change in changes], axis=1)  # (P, 4, S * S)
        pixels = _centred(window)
        # The other's brightness and contrast are not the question.
        scale = np.abs((target * pixels).sum(axis=1, keepdims=True))
        squared = tangents @ tangents.transpose(0, 2, 1)
        damping = 1e-3 * np.trace(squared, axis1=1, axis2=2) + 1e-3  # plain pictures have no edges to solve for
        squared += damping[:, None, None] * np.eye(4, dtype=np.float32)
        moves = np.linalg.solve(squared, tangents @ (scale * target - pixels)[:, :, None])[:, :, 0]
        bounds = np.clip(np.clip(bounds + moves, start - REACH, start + REACH), 0, 1).astype(np.float32)
    return _windows(cut, bounds), bounds


def detail_correlation(first: Floats, second: Floats, sides: npt.NDArray[np.int64]) -> Floats:
    """(P, S, S, 3) twice -> (P,) correlation of the brightness, all frequencies as important as one another.

    Args:
        sides: (P,) the smaller side in pixels of the smaller picture of each pair.
    """
    frequencies = np.arange(NUM_FREQUENCIES)
    size = first.shape[1]
    cosines = np.cos(np.pi * frequencies[:, None] * (2 * np.arange(size) + 1) / (2 * size)).astype(np.float32)
    weights = np.hypot(frequencies[:, None], frequencies).astype(np.float32)
    weights[0] *= np.sqrt(0.5)  # as in the orthonormal transform
    weights[:, 0] *= np.sqrt(0.5)
    kept = frequencies < np.where(sides < FULL_SIDE, NUM_SMALL_FREQUENCIES, NUM_FREQUENCIES)[:, None]
    weights = weights * kept[:, :, None] * kept[:, None]
    one, other = (
        np.asarray((cosines @ images.mean(axis=3) @ cosines.T) * weights, dtype=np.float32)
        for images in (first, second)
    )
    product = (one * other).sum(axis=(1, 2))
    return np.asarray(product / np.sqrt((one**2).sum(axis=(1, 2)) * (other**2).sum(axis=(1, 2)) + 1e-6))


def _centred(images: Floats) -> Floats:
    """(P, S, S) -> (P, S * S) with mean 0 each."""
    flat = images.reshape(len(images), images.shape[1] * images.shape[2])
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


def _windows(images: Floats, bounds: Floats) -> Floats:
    """(P, S, S, C) -> (P, S, S, C), each window of `bounds` (P, 4) enlarged to the size of the picture."""
    size = images.shape[1]
    down, across = _resampling(bounds[:, 0], bounds[:, 1], size), _resampling(bounds[:, 2], bounds[:, 3], size)
    planes = images.transpose(0, 3, 1, 2)
    enlarged = down[:, None] @ planes @ across.transpose(0, 2, 1)[:, None]
    return np.asarray(enlarged.transpose(0, 2, 3, 1))


def _resampling(low: Floats, high: Floats, size: int) -> Floats:
    """(P,) shares -> (P, size, size): cubic convolution (Keys 1981) from pixels to pixels between low and high."""
    places = (low[:, None] + (high - low)[:, None] * ((np.arange(size) + 0.5) / size)) * size - 0.5
    far = np.abs(places[:, :, None] - np.arange(size))
    near = (1.5 * far - 2.5) * far**2 + 1
    weights = np.where(far < 1, near, np.where(far < 2, ((2.5 - 0.5 * far) * far - 4) * far + 2, 0))
    return np.asarray(weights / weights.sum(axis=2, keepdims=True), dtype=np.float32)
