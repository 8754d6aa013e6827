from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.hamming import MAX_DISTANCE, num_bits, pairs_within


def _near(generator: np.random.Generator, hashes: np.ndarray, most: int) -> np.ndarray:
    """Each hash with up to `most` bits flipped."""
    flips = np.zeros_like(hashes)
    for bit in generator.integers(0, 64, (most, len(hashes))):
        flips |= np.uint64(1) << bit.astype(np.uint64)
    return hashes ^ flips


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    distance=st.integers(0, 12),
    sizes=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    seed=st.integers(0, 2**32),
    block=st.sampled_from([1, 7, 1 << 20]),
)
def test_pairs_are_those_of_a_comparison_of_all_with_all_each_once(
    distance: int, sizes: tuple[int, int], seed: int, block: int
) -> None:
    generator = np.random.default_rng(seed)
    few = generator.integers(0, 2**64, 6, dtype=np.uint64)  # so that there are pairs at every distance
    first, second = (_near(generator, generator.choice(few, size), 7) for size in sizes)
    found = [
        (int(i), int(j), int(d))
        for rows, columns, distances in pairs_within(first, second, distance, block)
        for i, j, d in zip(rows, columns, distances, strict=True)
    ]
    everything = num_bits((first[:, None] ^ second[None, :]).ravel()).reshape(len(first), len(second))
    expected = [(int(i), int(j), int(everything[i, j])) for i, j in np.argwhere(everything <= distance)]
    assert sorted(found) == expected


def test_a_distance_that_would_compare_all_with_all_is_refused() -> None:
    hashes = np.zeros(1, dtype=np.uint64)
    with pytest.raises(ValueError, match="distance 17 is not between 0 and 16"):
        list(pairs_within(hashes, hashes, MAX_DISTANCE + 1))


def test_bits_are_counted_alike_with_and_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    expected = [int(value).bit_count() for value in values]
    assert num_bits(values).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert num_bits(values).tolist() == expected
