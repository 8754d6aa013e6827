from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from vitrail.evaluators.calibration import NUM_BINS, brier_score, fit_temperature, log_loss, reliability_bins


def _case(seed: int, num: int = 200, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), generator.integers(0, num_classes, num)])
    return labels, generator.dirichlet(np.full(num_classes, 0.3), len(labels))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 10_000))
def test_log_loss_and_brier_score_are_those_of_scikit_learn(seed: int) -> None:
    labels, probabilities = _case(seed)
    assert log_loss(labels, probabilities) == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(4)))
    expected = np.square(probabilities - np.eye(4)[labels]).sum(axis=1).mean()
    assert brier_score(labels, probabilities) == pytest.approx(expected)
    # With two classes scikit-learn has counted one of the two equal halves since ever.
    two = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], axis=1)
    assert brier_score((labels == 0).astype(int), two) == pytest.approx(
        2 * metrics.brier_score_loss(labels == 0, probabilities[:, 0])
    )


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 10_000))
def test_the_reliability_bins_are_those_of_scikit_learn(seed: int) -> None:
    labels, probabilities = _case(seed)
    bins = reliability_bins(labels, probabilities)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=NUM_BINS, strategy="uniform")
    used = bins.counts > 0
    np.testing.assert_allclose(bins.accuracy[used], accuracy)
    np.testing.assert_allclose(bins.confidence[used], confidence)
    assert bins.counts.sum() == len(labels)
    weights = bins.counts[used] / len(labels)
    assert bins.expected_calibration_error == pytest.approx((weights * np.abs(accuracy - confidence)).sum())


def test_probabilities_that_come_true_have_no_calibration_error() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    bins = reliability_bins(labels, np.tile([0.8, 0.2], (10, 1)))
    assert bins.expected_calibration_error == pytest.approx(0, abs=1e-12)


def test_certain_mistakes_have_the_largest_calibration_error_and_a_finite_log_loss() -> None:
    labels, wrong = np.zeros(5, dtype=np.int64), np.tile([0.0, 1.0], (5, 1))
    assert reliability_bins(labels, wrong).expected_calibration_error == 1.0
    assert log_loss(labels, wrong) == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert brier_score(labels, wrong) == 2.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    bins = reliability_bins(np.array([0, 0]), np.array([[1.0, 0.0], [0.6, 0.4]]), num_bins=5)
    assert bins.counts.tolist() == [0, 0, 1, 0, 1]


def test_nothing_is_said_without_pictures() -> None:
    empty, none = np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    assert math.isnan(log_loss(empty, none))
    assert math.isnan(brier_score(empty, none))
    assert math.isnan(reliability_bins(empty, none).expected_calibration_error)


def test_the_temperature_of_scaled_logits_is_their_scale() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > generator.random((4000, 1))).argmax(axis=1)
    assert fit_temperature(labels, logits) == pytest.approx(1, abs=0.1)
    assert fit_temperature(labels, 3 * logits) == pytest.approx(3 * fit_temperature(labels, logits), rel=1e-2)


def test_no_temperature_gives_a_smaller_loss() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(200, 4)) * 5
    labels = (logits + generator.normal(size=(200, 4)) * 4).argmax(axis=1)

    def loss(temperature: float) -> float:
        scaled = np.exp(logits / temperature)
        return log_loss(labels, scaled / scaled.sum(axis=1, keepdims=True))

    best = fit_temperature(labels, logits)
    assert loss(best) <= min(loss(best * 0.97), loss(best * 1.03), loss(1.0)) + 1e-9


def test_answers_that_are_all_right_keep_their_temperature() -> None:
    assert fit_temperature(np.array([0, 1]), np.eye(2)) == 1.0
    assert fit_temperature(np.empty(0, np.int64), np.empty((0, 3))) == 1.0
