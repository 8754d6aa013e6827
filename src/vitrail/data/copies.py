"""Which pictures of one data set are copies of pictures of another, or of the same: proposed by hash, judged by eye.

"By eye": `duplicates.residuals`, what is left of the difference of two thumbnails after the best change of brightness,
shift and scale, with the same limits as in the check of a single data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitrail.data.duplicates import MAX_LOOKALIKES, MAX_RESIDUAL, MAX_STRICT_RESIDUAL, residuals
from vitrail.data.fingerprints import Fingerprints
from vitrail.data.hamming import pairs_within

Kind = Literal["same file", "near", "cropped", "mirrored", "similar"]
DEFAULT_DISTANCE = 10  # bits of 64, of `pairs_by_hash`; see docs/dedup.md for what was measured
_VIEW_PAIRS = ((0, 0), (0, 1), (1, 0))  # whole with whole, whole with middle, middle with whole
_CHUNK = 8192  # pairs judged at a time


@dataclass(frozen=True)
class Pair:
    first: int  # of the first data set
    second: int  # of the second; where there is one data set, above `first`
    kind: Kind
    distance: float  # bits of 64; or cosine similarity, of kind "similar"
    residual: float  # share of the contrast that differs; 0 for the same file


def same_files(
    first: Fingerprints, second: Fingerprints | None
) -> tuple[list[Pair], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pictures with equal bytes: each with the first that equals it.

    Returns:
        the pairs; and for both sets (N,) the index of the first picture of its own set with the same bytes.
    """
    leaders_1 = _leaders(first)
    if second is None:
        copies = np.flatnonzero((leaders_1 != np.arange(len(leaders_1))) & first.usable)
        return [Pair(int(leaders_1[i]), int(i), "same file", 0, 0) for i in copies], leaders_1, leaders_1
    known = {tuple(first.digests[i].tolist()): i for i in np.flatnonzero(first.usable)[::-1].tolist()}
    pairs = []
    for index in np.flatnonzero(second.usable).tolist():
        equal = known.get(tuple(second.digests[index].tolist()))
        if equal is not None:
            pairs.append(Pair(equal, index, "same file", 0, 0))
    return pairs, leaders_1, _leaders(second)


def _leaders(prints: Fingerprints) -> npt.NDArray[np.int64]:
    leaders = np.arange(len(prints.digests))
    usable = np.flatnonzero(prints.usable)
    _, places, inverse = np.unique(prints.digests[usable], axis=0, return_index=True, return_inverse=True)
    leaders[usable] = usable[places[inverse.reshape(-1)]]
    return leaders


def pairs_by_hash(
    first: Fingerprints, second: Fingerprints | None, distance: int = DEFAULT_DISTANCE, mirrored: bool = False
) -> list[Pair]:
    """Pairs in other bytes that show the same picture, those of least residual first.

    Of pictures with equal bytes in one set only the first is compared.

    Args:
        second: None: pairs within the first.
        distance: of the hashes that propose a pair.
        mirrored: look for pictures mirrored left to right, too.
    """
    others = first if second is None else second
    rows, columns = (np.flatnonzero(_compared(prints)) for prints in (first, others))
    best: dict[tuple[int, int], Pair] = {}
    for is_mirrored in (False, True) if mirrored else (False,):
        for view, other_view in _VIEW_PAIRS:
            hashes = (first.mirrored if is_mirrored else first.hashes)[rows, view]
            found = _candidates(first, second, (rows, columns), hashes, others.hashes[columns, other_view], distance)
            kind: Kind = "mirrored" if is_mirrored else "near" if view == other_view else "cropped"
            for chunk in found:
                _judge(first, others, chunk, (view, other_view), kind, best)
    return sorted(best.values(), key=lambda pair: (pair.residual, pair.first, pair.second))


def _compared(prints: Fingerprints) -> npt.NDArray[np.bool_]:
    return np.asarray(prints.usable & prints.varied & (_leaders(prints) == np.arange(len(prints.small))))


Candidates = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


def _candidates(
    first: Fingerprints,
    second: Fingerprints | None,
    places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    hashes: npt.NDArray[np.uint64],
    other_hashes: npt.NDArray[np.uint64],
    distance: int,
) -> Iterator[Candidates]:
    """(first, second, distance, to be judged as they are) of pairs that are not the same picture or the same file."""
    others = first if second is None else second
    counts = np.zeros(len(hashes), np.int64), np.zeros(len(other_hashes), np.int64)
    for one, other, _ in pairs_within(hashes, other_hashes, distance):
        for count, side in zip(counts, (one, other), strict=True):
            count += np.bincount(side, minlength=len(count))
    # Pictures with many lookalikes show what their kind has in common; see duplicates.py.
    many = [count > MAX_LOOKALIKES for count in counts]
    for one, other, distances in pairs_within(hashes, other_hashes, distance):
        strict = many[0][one] | many[1][other]
        one, other = places[0][one], places[1][other]
        # Both, not one: a picture that was shrunk or cropped below the limit has an original above it.
        strict |= first.small[one] & others.small[other]
        wanted = (first.digests[one] != others.digests[other]).any(axis=1)
        if second is None:
            wanted &= one < other
        one, other, distances, strict = one[wanted], other[wanted], distances[wanted], strict[wanted]
        for start in range(0, len(one), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield one[part], other[part], distances[part], strict[part]


def _judge(
    first: Fingerprints,
    others: Fingerprints,
    candidates: Candidates,
    seen: tuple[int, int],
    kind: Kind,
    best: dict[tuple[int, int], Pair],
) -> None:
    """Keep in `best` the candidates whose thumbnails agree."""
    one, other, distances, strict = candidates
    thumbnails = first.thumbnails[one, seen[0]]
    if kind == "mirrored":
        thumbnails = thumbnails[:, :, ::-1]
    together = np.concatenate([thumbnails, others.thumbnails[other, seen[1]]])
    numbers = np.arange(len(one))
    left = residuals(together, np.stack([numbers, numbers + len(one)], axis=1), strict)
    for place in np.flatnonzero(left <= np.where(strict, MAX_STRICT_RESIDUAL, MAX_RESIDUAL)).tolist():
        key = int(one[place]), int(other[place])
        pair = Pair(*key, kind, float(distances[place]), float(left[place]))
        if key not in best or pair.residual < best[key].residual:
            best[key] = pair
