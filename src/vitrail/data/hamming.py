"""All pairs of 64-bit hashes within a Hamming distance: exact, in blocks of bounded memory.

Multi-index hashing (Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index hashing", section
3): hashes within distance r = 4 a + b agree within a bits in one of their first b + 1 parts of 16 bits, or within a - 1
bits in one of the others. So each part is looked up as it is and with each such set of its bits flipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

MAX_DISTANCE = 16  # of 64; beyond it nearly every part of every hash would be looked at
NUM_PARTS, PART_BITS = 4, 16
BLOCK = 1 << 20  # candidate pairs compared at a time

Hashes = npt.NDArray[np.uint64]
# Positions in the first set, positions in the second, distances; all of one length.
PairBlock = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]


def pairs_within(first: Hashes, second: Hashes, distance: int, block: int = BLOCK) -> Iterator[PairBlock]:
    """Every pair of one hash of each set that differ in at most `distance` bits, each once, in no stated order.

    Args:
        first: (N,) uint64.
        second: (M,) uint64.
        distance: 0 to MAX_DISTANCE bits.
        block: candidates compared at a time; a bound for the memory, beside a few numbers for each hash.
    Yields:
        blocks that are not empty. Raises ValueError for a distance out of its range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance {distance} is not between 0 and {MAX_DISTANCE} bits")
    radii = _radii(distance)
    for part, radius in enumerate(radii):
        if radius < 0 or not len(first) or not len(second):
            continue
        order_1, keys_1 = _sorted_by_part(first, part)
        order_2, keys_2 = _sorted_by_part(second, part)
        sorted_1, sorted_2 = first[order_1], second[order_2]
        bounds = np.searchsorted(keys_2, np.arange((1 << PART_BITS) + 1))
        for flipped in _masks(radius):
            starts = bounds[keys_1 ^ flipped]
            counts = bounds[(keys_1 ^ flipped) + 1] - starts
            for rows, columns in _expanded(starts, counts, block):
                difference = sorted_1[rows] ^ sorted_2[columns]
                distances = num_bits(difference)
                near = np.flatnonzero(distances <= distance)
                near = near[_is_first_seen(difference[near], radii[:part])]
                if len(near):
                    yield order_1[rows[near]], order_2[columns[near]], distances[near]


def num_bits(values: Hashes) -> npt.NDArray[np.uint8]:
    """How many bits of each number are set."""
    count = getattr(np, "bitwise_count", None)  # numpy 2
    if count is not None:
        return np.asarray(count(values), dtype=np.uint8)
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    return np.asarray(_BITS_OF_OCTET[octets].sum(axis=1), dtype=np.uint8)


_BITS_OF_OCTET = np.array([bin(octet).count("1") for octet in range(256)], dtype=np.uint8)


def _radii(distance: int) -> list[int]:
    """How many bits each part may differ in; -1: the other parts find every pair."""
    whole, rest = divmod(distance, NUM_PARTS)
    return [whole if part <= rest else whole - 1 for part in range(NUM_PARTS)]


def _masks(radius: int) -> list[int]:
    """All numbers of PART_BITS bits with at most `radius` bits set."""
    return [
        sum(1 << bit for bit in bits) for size in range(radius + 1) for bits in combinations(range(PART_BITS), size)
    ]


def _part(hashes: Hashes, part: int) -> npt.NDArray[np.int64]:
    return ((hashes >> np.uint64(PART_BITS * part)) & np.uint64((1 << PART_BITS) - 1)).astype(np.int64)


def _sorted_by_part(hashes: Hashes, part: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted, neighbours look into one bucket, which then lies in the cache."""
    keys = _part(hashes, part)
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _expanded(
    starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], block: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(row, column) of every row r and every column from starts[r] to starts[r] + counts[r], `block` at a time."""
    ends = np.cumsum(counts)
    begins = ends - counts
    for low in range(0, int(ends[-1]), block):
        high = min(low + block, int(ends[-1]))
        top, bottom = np.searchsorted(ends, low, side="right"), np.searchsorted(begins, high, side="left")
        taken = np.minimum(ends[top:bottom], high) - np.maximum(begins[top:bottom], low)
        rows = np.repeat(np.arange(top, bottom), taken)
        columns = np.arange(low, high) + np.repeat(starts[top:bottom] - begins[top:bottom], taken)
        yield rows, columns


def _is_first_seen(difference: Hashes, radii: list[int]) -> npt.NDArray[np.bool_]:
    """Whether no earlier part, of these radii, has found the pair already."""
    new = np.ones(len(difference), dtype=bool)
    for part, radius in enumerate(radii):
        new &= num_bits(_part(difference, part).astype(np.uint64)) > radius
    return new
