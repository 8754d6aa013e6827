from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vitrail.evaluators import knn
from vitrail.evaluators.knn import nearest_neighbours


def _at(similarities: list[float]) -> np.ndarray:
    """Rows of length 3 with these cosines to (1, 0)."""
    cosines = np.array(similarities)
    return 3 * np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def test_one_very_near_neighbour_outvotes_two_that_are_less_near() -> None:
    # exp(.9 / .07) = 383,518 against 2 exp(.8 / .07) = 183,821
    train, labels, test = _at([0.9, 0.8, 0.8]), np.array([0, 1, 1]), np.array([[2.0, 0.0]])
    (answer,) = nearest_neighbours(train, labels, test, 3, ks=(3,))
    assert answer.predictions[0].tolist() == [0, 1, 2]
    (even,) = nearest_neighbours(train, labels, test, 3, ks=(3,), temperature=10)
    assert even.predictions[0, 0] == 1
    votes = knn._sum_votes(np.exp(np.array([[0.9, 0.8, 0.8]]) / 0.07), labels[None], 3)
    np.testing.assert_allclose(votes, [[383518.39, 183821.16, 0]], rtol=1e-7)


def test_predictions_are_scikit_learns_with_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 300)
    train = generator.normal(size=(7, 12))[labels] + generator.normal(size=(300, 12))
    test = generator.normal(size=(90, 12))
    monkeypatch.setattr(knn, "MAX_CELLS", 300 * 32)
    for answer in nearest_neighbours(train, labels, test, 7, ks=(1, 20, 300)):
        theirs = KNeighborsClassifier(
            answer.k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(train, labels)
        np.testing.assert_array_equal(answer.predictions[:, 0], theirs.predict(test))
        if answer.k < 300:
            continue  # classes without a vote are all equal
        truth = generator.integers(0, 7, 90)
        order = np.argsort(-theirs.predict_proba(test), axis=1)[:, :5]
        assert answer.accuracy(truth, top=5) == (order == truth[:, None]).any(axis=1).mean()


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        nearest_neighbours(_at([0.1, 0.2, 0.3]), np.zeros(3, np.int64), np.ones((1, 2)), 1, ks=(4,))
