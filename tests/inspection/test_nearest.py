"""The nearest rows: those of another implementation, and the same whatever is asked beside them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from vitrail.inspection import nearest as module
from vitrail.inspection.nearest import nearest, unit_rows


def rows(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 400])
def test_they_are_those_of_scikit_learn(count: int) -> None:
    train, asked = rows(400), 3 * rows(50, seed=1)
    distances, indices = NearestNeighbors(n_neighbors=count, metric="cosine").fit(train).kneighbors(asked)
    found = nearest(unit_rows(train), asked, count)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarity, 1 - distances, atol=1e-6)


def test_of_equals_the_first_comes_first() -> None:
    train = unit_rows(np.tile(rows(37), (9, 1)))
    found = nearest(train, rows(5, seed=1), 18)
    for indices in found.indices:
        np.testing.assert_array_equal(indices.reshape(2, 9), indices[::9, None] + 37 * np.arange(9))
        assert (indices[::9] < 37).all()


def test_a_query_has_the_same_neighbours_whatever_is_asked_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    train = unit_rows(np.concatenate([rows(200, 100), rows(200, 100)]))
    asked = rows(33, 100, seed=1)
    together = nearest(train, asked, 5)
    monkeypatch.setattr(module, "MAX_CELLS", 1000)  # blocks of two
    blocks = nearest(train, asked, 5)
    np.testing.assert_array_equal(blocks.indices, together.indices)
    np.testing.assert_array_equal(blocks.similarity, together.similarity)
    for row in range(len(asked)):
        alone = nearest(train, asked[row : row + 1], 5)
        np.testing.assert_array_equal(alone.indices[0], together.indices[row])
        np.testing.assert_array_equal(alone.similarity[0], together.similarity[row])


def test_length_does_not_matter_and_zeros_are_like_nothing() -> None:
    train = unit_rows([[3.0, 4.0], [0.0, 0.0], [-6e4, 0.0]])
    np.testing.assert_allclose(train, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert unit_rows(np.full((1, 4), 6e4, np.float16))[0, 0] == 0.5  # whose squares are no float16
    found = nearest(train, [[1e-20, 0.0], [0.0, 0.0]], 5)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(found.similarity, [[0.6, 0, -1], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("queries", "count", "message"),
    [(np.ones((1, 3)), 1, "3 features.* 2"), (np.ones((1, 2)), 0, "0 neighbours"),
     (np.full((1, 2), np.nan), 1, "finite"), (np.ones(2), 1, "rows and columns")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(queries: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(unit_rows(np.eye(2)), queries, count)
