from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from vitrail.evaluators.few_shot import PENALTIES, draw_shots, fit_few_shot, fit_few_shots


def _features(num: int, dim: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num)
    centres = generator.normal(size=(num_classes, dim))
    return (centres[labels] + 2 * generator.normal(size=(num, dim)) + 5).astype(np.float32), labels


@pytest.mark.parametrize("form", ["features", "rows"])
def test_the_published_evaluators_values_hold(form: str) -> None:
    x, y = np.array([[0, 1], [2, 3], [4, 7], [1, 1]]), np.array([0, 1, 1, 0])
    model = fit_few_shot(x, y, 2, form=form)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.mean, [1.75, 3])
    np.testing.assert_allclose(model.scale, [1.47902995, 2.44949974], rtol=1e-8)
    expected = [[-0.00327662, 0.00327662], [-0.0031647, 0.0031647], [0, 0]]
    np.testing.assert_allclose(model.weights, expected, atol=1e-8)
    scores = model.scores(np.array([[3, 5], [0, 0], [2, 1]]))[:, 0]
    np.testing.assert_allclose(scores, [-0.00535319, 0.00775286, 0.00203011], atol=1e-8)


@pytest.mark.parametrize(("num", "dim"), [(20, 50), (51, 50), (200, 50)])
@pytest.mark.parametrize("penalty", [2.0**-10, 1024.0])
def test_both_forms_are_scikit_learns_ridge_on_standardised_features(num: int, dim: int, penalty: float) -> None:
    features, labels = _features(num, dim, 4)
    x = features.astype(np.float64)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)
    x = np.concatenate([x, np.full((num, 1), 100.0)], axis=1)
    targets = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    theirs = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky" if num > dim else "svd").fit(x, targets)
    for form in ("features", "rows"):
        ours = fit_few_shot(features, labels, 4, penalties=(penalty,), form=form)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.weights, theirs.coef_.T, rtol=1e-4, atol=1e-7)


def test_sets_are_nested_drawn_class_by_class_and_keep_all_of_a_small_class() -> None:
    labels = np.array([1, 0, 1, 1, 0, 2, 1, 0, 1])
    one, three, many = draw_shots(labels, 3, (1, 3, 25), seed=7)
    generator = np.random.default_rng(7)
    expected = [generator.permutation(np.flatnonzero(labels == label)) for label in range(3)]
    np.testing.assert_array_equal(one, [rows[0] for rows in expected])
    np.testing.assert_array_equal(three, np.concatenate([rows[:3] for rows in expected]))
    assert set(one) < set(three) < set(many) == set(range(9))
    assert np.bincount(labels[three]).tolist() == [3, 3, 1]
    with pytest.raises(ValueError, match="shots"):
        draw_shots(labels, 3, (0,), seed=0)


def test_shared_sums_give_what_each_set_gives_by_itself() -> None:
    features, labels = _features(600, 30, 5)
    shots = (25, 1, 10, 5, 1000, 2000)
    together = fit_few_shots(features, labels, 6, shots=shots, seed=3, penalties=PENALTIES)
    for number, ours, rows in zip(shots, together, draw_shots(labels, 6, shots, 3), strict=True):
        alone = fit_few_shot(features[rows], labels[rows], 6, penalties=PENALTIES, form="rows")
        assert (ours.shots, ours.num_rows, ours.penalty) == (number, len(rows), alone.penalty)
        np.testing.assert_allclose(ours.weights, alone.weights, rtol=1e-5, atol=1e-8)


def test_a_class_without_pictures_is_never_predicted() -> None:
    features, labels = _features(100, 8, 3)
    (model,) = fit_few_shots(features, labels, 5, shots=(10,))
    assert set(model.predict(features)) == {0, 1, 2}


def test_the_chosen_penalty_is_that_of_leaving_each_row_out_within_a_step_of_the_grid() -> None:
    for seed, (num, dim) in enumerate([(300, 40), (60, 100)]):
        features, labels = _features(num, dim, 4, seed)
        x = features.astype(np.float64)
        x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)
        targets = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
        theirs = RidgeCV(alphas=PENALTIES).fit(x, targets).alpha_
        ours = fit_few_shot(features, labels, 4, penalties=PENALTIES).penalty
        assert 0.5 <= ours / theirs <= 2


def test_predictions_do_not_depend_on_the_blocks() -> None:
    features, labels = _features(5000, 4, 3)
    model = fit_few_shot(features, labels, 3)
    np.testing.assert_array_equal(model.predict(features), model.scores(features).argmax(axis=1))


def test_broken_features_and_penalties_are_refused() -> None:
    features, labels = _features(30, 4, 3)
    with pytest.raises(ValueError, match="penalties"):
        fit_few_shot(features, labels, 3, penalties=(0.0,))
    features[3, 1] = np.nan
    for form in ("features", "rows"):
        with pytest.raises(ValueError, match="not finite"):
            fit_few_shot(features, labels, 3, form=form)  # type: ignore[arg-type]
