from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from vitrail.evaluators.accuracy import class_counts, confusions, top_k_accuracy, wilson_interval


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    num_classes = draw(st.integers(2, 7))
    num = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    return generator.integers(0, num_classes, num), generator.integers(0, num_classes, num), num_classes


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions())
def test_class_figures_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, num_classes = case
    counts = class_counts(labels, predicted, num_classes)
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(num_classes), zero_division=np.nan
    )
    np.testing.assert_allclose(counts.precision, precision)
    np.testing.assert_allclose(counts.recall, recall)
    np.testing.assert_array_equal(counts.support, support)
    f1 = metrics.f1_score(labels, predicted, labels=range(num_classes), average=None, zero_division=0)
    np.testing.assert_allclose(counts.f1[support > 0], f1[support > 0])
    assert np.isnan(counts.f1[support == 0]).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions())
def test_confusions_and_correct_counts_are_scikit_learns_matrix(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, num_classes = case
    matrix = np.diag(class_counts(labels, predicted, num_classes).correct)
    triples = confusions(labels, predicted, num_classes)
    matrix[triples[:, 0], triples[:, 1]] = triples[:, 2]
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, predicted, labels=range(num_classes)))
    assert (np.diff(triples[:, 2]) <= 0).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions())
def test_balanced_accuracy_is_scikit_learns_over_the_classes_that_have_pictures(
    case: tuple[np.ndarray, np.ndarray, int],
) -> None:
    labels, predicted, num_classes = case
    present = np.unique(labels)
    expected = metrics.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert class_counts(labels, predicted, num_classes).balanced_accuracy == pytest.approx(expected)


def test_balanced_accuracy_ignores_how_many_pictures_a_class_has() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    always_first = np.zeros(100, dtype=np.int64)
    assert class_counts(labels, always_first, 2).balanced_accuracy == 0.5


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(0, 10_000), st.integers(3, 9))
def test_top_k_accuracy_is_scikit_learns(seed: int, num_classes: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), generator.integers(0, num_classes, 20)])
    probabilities = generator.dirichlet(np.ones(num_classes), len(labels))
    for k in range(1, num_classes):
        expected = metrics.top_k_accuracy_score(labels, probabilities, k=k)
        assert top_k_accuracy(labels, probabilities, k) == pytest.approx(expected)
    assert top_k_accuracy(labels, probabilities, num_classes) == 1.0


def test_equal_probabilities_give_top_1_the_same_winner_as_argmax() -> None:
    probabilities = np.full((3, 4), 0.25)
    assert top_k_accuracy(np.array([0, 1, 0]), probabilities, 1) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("num_correct", "num", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(num_correct: int, num: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct, num) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(0, 2000), st.integers(1, 2000))
def test_the_interval_holds_the_share_and_stays_in_bounds(num_correct: int, num: int) -> None:
    num_correct = min(num_correct, num)
    low, high = wilson_interval(num_correct, num)
    assert 0 <= low <= num_correct / num <= high <= 1
    mirrored = wilson_interval(num - num_correct, num)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_nothing_is_known_without_pictures() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    empty = np.zeros(0, dtype=np.int64)
    assert math.isnan(top_k_accuracy(empty, np.zeros((0, 3)), 1))
    assert math.isnan(class_counts(empty, empty, 3).balanced_accuracy)


def test_labels_that_name_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 to 2"):
        class_counts(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="vector of integers"):
        class_counts(np.array([0.0]), np.array([0]), 3)
    with pytest.raises(ValueError, match="2 labels do not fit 1"):
        class_counts(np.array([0, 1]), np.array([0]), 3)
    with pytest.raises(ValueError, match="k 4"):
        top_k_accuracy(np.array([0]), np.ones((1, 3)), 4)
