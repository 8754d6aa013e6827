"""Pictures that are copies of one another although their files differ: re-encoded, resized, slightly cropped.

Candidates come from locality-sensitive hashing (Charikar 2002, "Similarity estimation techniques from rounding
algorithms"): thumbnails are put on the principal axes of the data set, and pairs that agree in all bits of one of
`NUM_BANDS` bands are looked at. Each band is sorted and compares a picture with `WINDOW` followers, so the whole is
O(N log N) however alike the pictures are.

Each candidate pair is then judged on its thumbnails by what is left of their difference, as a share of their contrast,
after the best change of brightness, shift and scale, taken as linear (the tangent distance of Simard et al. 1993).
Where pictures have too little detail for that (every handwritten 1 is a shifted 1) they must agree as they are: small
pictures, and those with many lookalikes.

Measured with copies of every fourth of 1,675 photographs of clothes, each among all originals. Found: of copies saved
at JPEG quality 30, halved, thirded, enlarged by 1.7 or squashed to 224 x 224, all; 12 % brighter, 99.8 %; cropped by
2 % on each side, 91 %; by up to 5 % on each side, 59 %; by exactly 5 %, 9 %. Wrongly joined: none; the one pair found
among the originals is one photograph in two classes. Of 188 groups found in the 60,000 pictures of CIFAR-10, 40 drawn
at random were all true. In the 70,000 of MNIST and the 1,797 of scikit-learn's digits, which hold no copies, none was
found (one pair where MNIST is not taken as small).
"""

from __future__ import annotations

import numpy as np

THUMBNAIL_SIZE = 16  # pixels
SMALL_SIDE = 32  # pixels; below it no shift or scale is allowed for
MAX_RESIDUAL = 0.015  # share of the contrast; unrelated photographs of one kind begin at about 0.018
MAX_LOOKALIKES = 16  # candidates of one picture; above it they show what the kind has in common, not the picture
MAX_STRICT_RESIDUAL = 0.002  # two handwritten digits of different people begin at about 0.004
MIN_CONTRAST = 4.0  # levels of 255; flatter pictures are all alike, and only equal files count as copies

ALL_PAIRS = 2000  # pictures; up to here every pair is looked at
NUM_BANDS = 24
NUM_AXES = 32
WINDOW = 16
_FAR = 0.1  # share of the contrast on the axes alone; what is farther is not looked at
_MAX_AXES_SAMPLES = 4096
_CHUNK = 512  # thumbnails or pairs at a time: they fit the cache of a core


def near_duplicates(thumbnails: np.ndarray, small: np.ndarray) -> list[tuple[int, ...]]:
    """Groups of pictures that show the same.

    Args:
        thumbnails: (N, 16, 16, 3) uint8, the whole picture squashed.
        small: (N,) bool, pictures with a side below SMALL_SIDE.
    Returns:
        tuples of two or more positions, ascending, no position in two groups. Every member is near the first of its
        group, so that a long chain of slightly different pictures does not become one group.
    """
    varied = np.flatnonzero(_contrast(thumbnails) >= MIN_CONTRAST)
    if len(varied) < 2:
        return []
    thumbnails, small = thumbnails[varied], small[varied]
    pairs = _candidates(_on_axes(thumbnails), small)
    strict = small | (np.bincount(pairs.ravel(), minlength=len(small)) > MAX_LOOKALIKES)
    left = residuals(thumbnails, pairs, strict[pairs].any(axis=1))
    near = left <= _allowed(strict, pairs)
    pairs, left = pairs[near], left[near]
    groups = _around_leaders(thumbnails, strict, pairs[np.argsort(left, kind="stable")])
    return [tuple(varied[members].tolist()) for members in groups]


def residuals(thumbnails: np.ndarray, pairs: np.ndarray, as_they_are: np.ndarray) -> np.ndarray:
    """What is left of the difference of each pair, as a share of its contrast: 0 for equal, about 1 for unrelated.

    Args:
        thumbnails: (N, 16, 16, 3) uint8.
        pairs: (P, 2) int64 positions.
        as_they_are: (P,) bool: allow for brightness alone, not for shift and scale.
    Returns:
        (P,) float32.
    """
    found = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        first, second = (thumbnails[pairs[part, side]].astype(np.float32) for side in (0, 1))
        found[part] = _residuals(first, second, as_they_are[part])
    return found


def _residuals(first: np.ndarray, second: np.ndarray, as_they_are: np.ndarray) -> np.ndarray:
    contrast = first.reshape(len(first), -1).std(axis=1) * second.reshape(len(second), -1).std(axis=1)
    difference = _centred(second - first)
    movable = np.flatnonzero(~as_they_are)
    if len(movable):
        tangents = _tangents((first[movable] + second[movable]) / 2)  # (pairs, 4, 768)
        transposed = tangents.transpose(0, 2, 1)
        squared = tangents @ transposed + np.eye(4, dtype=np.float32)  # flat pictures have no tangents to solve for
        moves = np.linalg.solve(squared, tangents @ difference[movable, :, None])
        # At most one pixel of the thumbnail: a sixteenth of the picture.
        difference[movable] -= (transposed @ moves.clip(-1, 1))[:, :, 0]
    result: np.ndarray = (difference**2).mean(axis=1) / (2 * contrast + 1e-6)
    return result


def _tangents(images: np.ndarray) -> np.ndarray:
    """(P, 16, 16, 3) -> (P, 4, 768): how the pixels change with shift and scale, down and across."""
    ramp = np.linspace(-1, 1, THUMBNAIL_SIZE, dtype=np.float32)
    down, across = np.gradient(images, axis=1), np.gradient(images, axis=2)
    changes = (down, down * ramp[:, None, None], across, across * ramp[:, None])
    return np.stack([_centred(change) for change in changes], axis=1)


def _centred(images: np.ndarray) -> np.ndarray:
    """(P, ...) -> (P, 768) with mean 0 each, whatever the brightness."""
    flat = images.reshape(len(images), -1)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


def _allowed(strict: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.where(strict[pairs].any(axis=1), MAX_STRICT_RESIDUAL, MAX_RESIDUAL)


def _contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Standard deviation of each thumbnail over its pixels, channel by channel: a plain red picture has none."""
    contrast = np.empty(len(thumbnails), dtype=np.float32)
    for start in range(0, len(thumbnails), _CHUNK):
        chunk = thumbnails[start : start + _CHUNK].astype(np.float32)
        contrast[start : start + _CHUNK] = np.sqrt(chunk.var(axis=(1, 2)).mean(axis=1))
    return contrast


def _normalized(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 768) float32 with mean 0 and length 1, whatever the brightness and contrast."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def _on_axes(thumbnails: np.ndarray) -> np.ndarray:
    """(N, axes) float32: normalised thumbnails on the principal axes of the data set."""
    chosen = np.unique(np.linspace(0, len(thumbnails) - 1, _MAX_AXES_SAMPLES).astype(np.int64))
    sample = _normalized(thumbnails[chosen])
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh((sample - mean).T @ (sample - mean))
    axes = axes[:, ::-1][:, :NUM_AXES]
    chunks = range(0, len(thumbnails), _CHUNK)
    return np.concatenate([(_normalized(thumbnails[start : start + _CHUNK]) - mean) @ axes for start in chunks])


def _candidates(points: np.ndarray, small: np.ndarray) -> np.ndarray:
    """(P, 2) int64, first < second, ascending: pairs that are not far on the axes and, among many pictures, agree in
    all bits of some band."""
    num_points = len(points)
    if num_points <= ALL_PAIRS:
        squares = (points**2).sum(axis=1)
        distances = squares[:, None] + squares - 2 * points @ points.T
        pairs = np.argwhere(np.triu(distances <= 2 * _FAR, 1))
        return pairs[_are_near(points, small, pairs[:, 0], pairs[:, 1])]
    scale = points.std(axis=0)
    whitened = points / np.maximum(scale, 0.05 * scale.max())  # faint axes are noise
    band_bits = int(np.log2(num_points))  # about one unrelated picture in each bucket
    random = np.random.Generator(np.random.Philox(key=0))
    found = []
    for _ in range(NUM_BANDS):
        projected = whitened @ random.standard_normal((points.shape[1], band_bits)).astype(np.float32)
        codes = (projected > np.median(projected, axis=0)) @ (1 << np.arange(band_bits))
        order = np.lexsort((projected[:, 0], codes))
        for step in range(1, WINDOW + 1):
            ahead, behind = order[:-step], order[step:]
            same = codes[ahead] == codes[behind]
            if not same.any():
                break
            ahead, behind = ahead[same], behind[same]
            near = _are_near(points, small, ahead, behind)
            low, high = np.minimum(ahead[near], behind[near]), np.maximum(ahead[near], behind[near])
            found.append(np.unique(low * num_points + high))
    keys = np.unique(np.concatenate(found))
    return np.stack([keys // num_points, keys % num_points], axis=1)


def _are_near(points: np.ndarray, small: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) bool. The distance on the axes never exceeds twice the residual of pictures that may not be moved."""
    far = np.where(small[first] | small[second], MAX_STRICT_RESIDUAL, _FAR)
    return np.asarray(((points[first] - points[second]) ** 2).sum(axis=1) <= 2 * far)


def _around_leaders(thumbnails: np.ndarray, strict: np.ndarray, pairs: np.ndarray) -> list[list[int]]:
    """Join pairs, nearest first, into groups whose members are all near the group's first picture."""
    groups: dict[int, list[int]] = {}  # every member -> the list it shares with its group
    for first, second in pairs.tolist():
        one, other = groups.get(first, [first]), groups.get(second, [second])
        if one is other:
            continue
        one, other = sorted((one, other))
        if len(one) + len(other) > 2:
            to_leader = np.array([(one[0], member) for member in other])
            left = residuals(thumbnails, to_leader, strict[to_leader].any(axis=1))
            # The leader may be as far as two steps of the allowed size; a residual grows with the step's square.
            if (left > 4 * _allowed(strict, to_leader)).any():
                continue
        one.extend(other)
        one.sort()
        groups.update(dict.fromkeys(one, one))
    return sorted({id(group): group for group in groups.values()}.values())
