from __future__ import annotations

import numpy as np
import pytest

from vitrail.evaluators.feature_rank import effective_rank


def test_equal_strength_in_k_directions_counts_k() -> None:
    """An orthonormal basis with the mean taken out: k directions of one singular value."""
    for k in (1, 3, 8):
        signs = np.concatenate([np.eye(k), -np.eye(k)])
        assert effective_rank(np.hstack([signs, np.ones((2 * k, 2))])) == pytest.approx(k)


def test_the_scale_the_offset_and_a_rotation_change_nothing() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((50, 6)) * np.array([9, 4, 2, 1, 0.5, 0.1])
    rotation = np.linalg.qr(random.standard_normal((6, 6)))[0]
    rank = effective_rank(features)
    assert 1 < rank < 6
    assert effective_rank(3 * features @ rotation + 5) == pytest.approx(rank)


def test_features_that_are_all_alike_have_no_rank() -> None:
    assert effective_rank(np.tile(np.random.default_rng(0).standard_normal(5), (9, 1)).astype(np.float32)) == 0
    assert effective_rank(np.zeros((4, 3))) == 0
    # One direction, of different strength: collapsed, but not alike.
    assert effective_rank(np.outer([1.0, 2.0, 4.0], [1.0, -1.0])) == pytest.approx(1)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="two rows"):
        effective_rank(np.ones((1, 4)))
