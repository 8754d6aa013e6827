"""Which pictures of one data set are copies of pictures of another, or of the same: proposed by hash, judged by eye.

"By eye": the thumbnails of the two, the frame of one laid on the other, agree in colour and in all detail that pictures
of their size can have. See alignment.py; docs/dedup.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitrail.data.alignment import Floats, aligned, detail_correlation
from vitrail.data.duplicates import MAX_STRICT_RESIDUAL, SMALL_SIDE, residuals
from vitrail.data.fingerprints import SIDE, WINDOWS, Fingerprints
from vitrail.data.hamming import PairBlock, pairs_within

Kind = Literal["same file", "near", "cropped", "mirrored", "similar"]
DEFAULT_DISTANCE = 12  # bits of 64, of `pairs_by_hash`; see docs/dedup.md for what was measured
MAX_DETAIL_RESIDUAL = (
    0.035  # 1 - correlation; planted copies end at 0.034, different shirts laid out alike begin at 0.04
)
MAX_COLOUR_RESIDUAL = 0.1  # share of the contrast of 8 x 8 colours
CROPPED = 0.02  # of the height or the width; what is cut less is called "near"
_COLOUR_SIDE = 8
_CHUNK = 1024  # pairs judged at a time


@dataclass(frozen=True)
class Pair:
    first: int  # of the first data set
    second: int  # of the second; where there is one data set, above `first`
    kind: Kind
    distance: float  # bits of 64; or cosine similarity, of kind "similar"
    residual: float  # share of the detail that differs; 0 for the same file


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
    first: Fingerprints,
    second: Fingerprints | None,
    distance: int = DEFAULT_DISTANCE,
    mirrored: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Pairs in other bytes that show the same picture, the surest first.

    Of pictures with equal bytes in one set only the first is compared.

    Args:
        second: None: pairs within the first.
        distance: of the hashes that propose a pair.
        mirrored: look for pictures mirrored left to right, too.
        progress: called with (comparisons of all hashes done, in all).
    """
    others = first if second is None else second
    rows, columns = (np.flatnonzero(_compared(prints)) for prints in (first, others))
    best: dict[tuple[int, int], Pair] = {}
    rounds = _rounds(mirrored, within=second is None)
    for number, (flip, cut, window) in enumerate(rounds):
        hashes = (first.mirrored if flip else first.hashes)[rows, window if cut == 0 else 0]
        for one, other, distances in pairs_within(hashes, others.hashes[columns, window if cut else 0], distance):
            one, other = rows[one], columns[other]
            wanted = (first.digests[one] != others.digests[other]).any(axis=1)
            if second is None and not window:
                wanted &= one < other  # each pair would be seen twice
            if window:
                wanted &= ~_say_little((first, others), one, other)
            one, other, distances = one[wanted], other[wanted], distances[wanted]
            for start in range(0, len(one), _CHUNK):
                part = slice(start, start + _CHUNK)
                _judge((first, others), (one[part], other[part], distances[part]), (flip, cut, window), best)
        if progress is not None:
            progress(number + 1, len(rounds))
    return sorted(best.values(), key=lambda pair: (pair.residual, pair.first, pair.second))


Round = tuple[bool, int, int]  # the first set is mirrored; which set is cut, 0 or 1; to which of WINDOWS


def _rounds(mirrored: bool, within: bool) -> list[Round]:
    """A copy shows a window of the other picture, which may be in either set; within one set that is the same."""
    cuts = [(0, window) for window in range(len(WINDOWS))]
    if not within:
        cuts += [(1, window) for window in range(1, len(WINDOWS))]
    return [(flip, *cut) for flip in (False, True)[: 1 + mirrored] for cut in cuts]


def _compared(prints: Fingerprints) -> npt.NDArray[np.bool_]:
    return np.asarray(prints.usable & prints.varied & (_leaders(prints) == np.arange(len(prints.sides))))


def _judge(
    sets: tuple[Fingerprints, Fingerprints], proposed: PairBlock, seen: Round, best: dict[tuple[int, int], Pair]
) -> None:
    """Keep in `best` the proposed pairs whose thumbnails agree."""
    one, other, distances = proposed
    flip, cut, window = seen
    images = [sets[side].thumbnails[places].astype(np.float32) for side, places in enumerate((one, other))]
    bounds = WINDOWS[window]
    if flip:
        images[0] = images[0][:, :, ::-1]
        bounds = bounds if cut else np.concatenate([bounds[:2], 1 - bounds[:1:-1]])
    whole = images[1 - cut]
    part, bounds = images[cut].copy(), np.tile(bounds, (len(one), 1))
    little = _say_little(sets, one, other)
    part[~little], bounds[~little] = aligned(part[~little], whole[~little], bounds[~little])
    sides = np.minimum(sets[0].sides[one], sets[1].sides[other])
    left = 1 - detail_correlation(part, whole, sides)
    limits = np.where(little, MAX_STRICT_RESIDUAL, MAX_DETAIL_RESIDUAL)
    agree = (left <= limits) & (_colour_residuals(part, whole) <= MAX_COLOUR_RESIDUAL)
    is_cut = np.maximum(bounds[:, ::2], 1 - bounds[:, 1::2]).max(axis=1) > CROPPED
    for place in np.flatnonzero(agree).tolist():
        key = int(one[place]), int(other[place])
        key = key if sets[0] is not sets[1] else (min(key), max(key))
        kind: Kind = "mirrored" if flip else "cropped" if is_cut[place] else "near"
        pair = Pair(*key, kind, float(distances[place]), max(float(left[place]), 0.0))
        if key not in best or pair.residual < best[key].residual:
            best[key] = pair


def _say_little(
    sets: tuple[Fingerprints, Fingerprints], one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Pairs of small pictures, or of strokes on plain ground, however large: these must agree uncut.

    Handwritten digits of different people agree as well, once moved, as copies of other pictures do. Both, not one: a
    picture that was shrunk or cropped below the limit has an original above it.
    """
    small = (sets[0].sides[one] < SMALL_SIDE) & (sets[1].sides[other] < SMALL_SIDE)
    return np.asarray(small | (sets[0].sparse[one] & sets[1].sparse[other]))


def _colour_residuals(first: Floats, second: Floats) -> Floats:
    """(P, S, S, 3) twice -> (P,): what the detail of the brightness does not tell, a red shirt from a blue one."""
    step = SIDE // _COLOUR_SIDE
    blocks = [
        images.reshape(-1, _COLOUR_SIDE, step, _COLOUR_SIDE, step, 3).mean(axis=(2, 4)) for images in (first, second)
    ]
    numbers = np.arange(len(first))
    pairs = np.stack([numbers, numbers + len(first)], axis=1)
    return np.asarray(residuals(np.concatenate(blocks), pairs, np.ones(len(first), dtype=bool)))
