from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics

from vitrail.evaluators.evaluation import evaluate

CLASSES = ("bird", "cat", "dog", "fish", "fox", "hen", "owl")


def _case(num: int = 90) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 6, num)  # no owl
    return labels, generator.dirichlet(np.ones(7), num)


def test_the_figures_agree_with_scikit_learn() -> None:
    labels, probabilities = _case()
    result = evaluate(labels, CLASSES, probabilities=probabilities)
    predicted = probabilities.argmax(axis=1)
    assert result.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    np.testing.assert_array_equal(
        result.confusion_matrix(), metrics.confusion_matrix(labels, predicted, labels=range(7))
    )
    assert result.top_5_accuracy == pytest.approx(
        metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(7))
    )
    assert result.calibration is not None
    assert result.calibration.log_loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(7)))
    low, high = result.accuracy_interval
    assert low < result.accuracy < high


def test_a_class_without_pictures_has_no_recall_rather_than_zero() -> None:
    labels, probabilities = _case()
    result = evaluate(labels, CLASSES, probabilities=probabilities)
    owl = result.per_class[6]
    assert (owl.name, owl.support) == ("owl", 0)
    assert math.isnan(owl.recall)
    assert math.isnan(owl.f1)
    assert result.classes_without_pictures == ("owl",)
    assert result.to_json()["per_class"][6]["recall"] is None


def test_json_is_strict_and_complete() -> None:
    labels, probabilities = _case()
    for result in (
        evaluate(labels, CLASSES, probabilities=probabilities),
        evaluate(labels, CLASSES, predicted=probabilities.argmax(axis=1)),
        evaluate(labels[:0], CLASSES, probabilities=probabilities[:0]),
    ):
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert written["num_pictures"] == result.num_pictures
        mistakes = sum(row["pictures"] for row in written["confusions"])
        assert mistakes == result.num_pictures - result.num_correct


def test_predictions_alone_are_evaluated_without_calibration() -> None:
    labels, probabilities = _case()
    whole = evaluate(labels, CLASSES, probabilities=probabilities)
    bare = evaluate(labels, CLASSES, predicted=probabilities.argmax(axis=1))
    assert bare.calibration is None
    assert bare.top_5_accuracy is None
    assert (bare.accuracy, bare.per_class[:6], bare.confusions) == (
        whole.accuracy,
        whole.per_class[:6],
        whole.confusions,
    )


def test_what_does_not_fit_is_refused() -> None:
    labels, probabilities = _case()
    with pytest.raises(ValueError, match="do not fit 90 labels"):
        evaluate(labels, CLASSES, probabilities=probabilities[:5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        evaluate(labels, CLASSES, probabilities=probabilities * np.nan)
    with pytest.raises(ValueError, match="either probabilities or predicted"):
        evaluate(labels, CLASSES)
