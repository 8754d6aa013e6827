from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from vitrail.evaluators.ridge import PENALTIES, fit_ridge, majority_class


def _pictures(num: int, num_features: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num)
    centres = generator.normal(size=(num_classes, num_features))
    return (centres[labels] + 3 * generator.normal(size=(num, num_features))) * 40 + 100, labels


@pytest.mark.parametrize("shape", [(120, 30), (60, 200)], ids=["more rows", "more features"])
def test_the_classifier_is_scikit_learns(shape: tuple[int, int]) -> None:
    features, labels = _pictures(*shape, num_classes=5)
    ours = fit_ridge(features.astype(np.float32), labels)
    scaler = StandardScaler().fit(features)
    theirs = RidgeClassifierCV(alphas=PENALTIES).fit(scaler.transform(features), labels)
    assert ours.penalty == theirs.alpha_
    new, _ = _pictures(50, shape[1], num_classes=5, seed=1)
    np.testing.assert_allclose(ours.scores(new), theirs.decision_function(scaler.transform(new)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(scaler.transform(new)))


def test_the_penalty_is_the_best_of_leaving_every_row_out_by_hand() -> None:
    features, labels = _pictures(24, 6, num_classes=3)
    penalties = (1.0, 10.0, 100.0)
    x = StandardScaler().fit_transform(features)
    targets = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    errors = []
    for penalty in penalties:
        residuals = []
        for row in range(len(x)):
            rest = np.arange(len(x)) != row
            fitted = Ridge(alpha=penalty).fit(x[rest], targets[rest])
            residuals.append(targets[row] - fitted.predict(x[row : row + 1])[0])
        errors.append(np.square(residuals).mean())
    assert fit_ridge(features, labels, penalties=penalties).penalty == penalties[int(np.argmin(errors))]


def test_more_rows_than_the_bound_are_sampled_and_said() -> None:
    features, labels = _pictures(300, 10, num_classes=3)
    first = fit_ridge(features, labels, max_rows=100, seed=7)
    assert (first.num_rows, first.num_rows_given) == (100, 300)
    again = fit_ridge(features, labels, max_rows=100, seed=7)
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    assert not np.array_equal(first.coefficients, fit_ridge(features, labels, max_rows=100, seed=8).coefficients)
    whole = fit_ridge(features, labels)
    assert (whole.num_rows, whole.num_rows_given) == (300, 300)


def test_a_class_without_rows_is_never_predicted() -> None:
    features, labels = _pictures(60, 8, num_classes=4)
    kept = labels != 2
    model = fit_ridge(features[kept], labels[kept])
    assert model.classes.tolist() == [0, 1, 3]
    assert 2 not in model.predict(features)


def test_constant_features_change_nothing() -> None:
    features, labels = _pictures(60, 8, num_classes=3)
    with_border = np.concatenate([features, np.zeros((60, 2)), np.full((60, 1), 0.1)], axis=1)
    np.testing.assert_allclose(
        fit_ridge(with_border, labels).scores(with_border), fit_ridge(features, labels).scores(features)
    )
    blank = fit_ridge(np.ones((60, 3)), labels)
    assert blank.predict(np.ones((1, 3)))[0] == majority_class(labels, 3)


def test_the_majority_class_is_the_most_frequent_and_the_first_of_equals() -> None:
    assert majority_class(np.array([2, 2, 1, 0, 2, 1, 1]), 4) == 1
    with pytest.raises(ValueError, match="no labels"):
        majority_class(np.zeros(0, dtype=np.int64), 3)
    with pytest.raises(ValueError, match="outside 0 to 2"):
        majority_class(np.array([3]), 3)


def test_unusable_features_are_refused() -> None:
    features, labels = _pictures(20, 4, num_classes=2)
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_ridge(features, labels)
    with pytest.raises(ValueError, match="two rows"):
        fit_ridge(features[:1], labels[:1])
    with pytest.raises(ValueError, match="penalties"):
        fit_ridge(features, labels, penalties=(0.0,))
