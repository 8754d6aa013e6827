from __future__ import annotations

import sys

import numpy as np
import pytest

from vitrail.data.neighbours import similar_pairs


@pytest.mark.parametrize("has_faiss", [False, True])
def test_blocks_find_what_the_whole_product_finds_and_zeros_are_like_nothing(
    has_faiss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    generator = np.random.default_rng(0)
    first = generator.standard_normal((23, 5)).astype(np.float32)
    second = np.concatenate([generator.standard_normal((17, 5)), 3 * first[:4]]).astype(np.float32)
    first[7] = 0
    cosines = (first @ second.T) / np.maximum(np.linalg.norm(first, axis=1), 1e-9)[:, None]
    cosines = cosines / np.linalg.norm(second, axis=1)
    found = [pair for i, j, _ in similar_pairs(first, second, 0.8, block=6) for pair in zip(i.tolist(), j.tolist())]
    assert sorted(found) == [tuple(pair) for pair in np.argwhere(cosines >= 0.8).tolist()]
    assert {(place, 17 + place) for place in range(4)} <= set(found)
    assert all(row != 7 for row, _ in found)
