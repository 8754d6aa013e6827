from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.evaluators.comparison import compare
from vitrail.evaluators.evaluation import evaluate
from vitrail.report import words


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.floats(0, 1))
def test_a_share_in_pictures_is_never_far_from_the_share(share: float) -> None:
    text = words.in_pictures(share)
    found = re.fullmatch(r"about (\d+) of ([\d,]+)", text)
    if found is None:
        assert share < 0.001 if text == "practically none" else share > 0.999
        return
    part, whole = int(found[1]), int(found[2].replace(",", ""))
    assert 0 < part < whole
    assert abs(part / whole - share) <= 0.5 / whole + 1e-9


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.72, "about 7 of 10"),
        (0.981, "about 98 of 100"),
        (0.9991, "about 999 of 1,000"),
        (1.0, "practically every one"),
    ],
)
def test_shares_read_well(share: float, text: str) -> None:
    assert words.in_pictures(share) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1e13, "10¹³"), (8.356e12, "8.36 × 10¹²"), (2e9, "2 × 10⁹"), (9.999e12, "10¹³")]
)
def test_large_numbers_are_written_as_in_print(number: float, text: str) -> None:
    assert words.power_of_ten(number).replace("\u00a0", " ") == text


def test_what_is_not_certain_is_never_called_100_percent() -> None:
    assert [words.probability(share) for share in (0.5, 0.994, 0.9951, 0.99999, 1.0)] == [
        "50\u00a0%", "99\u00a0%", ">\u00a099\u00a0%", ">\u00a099\u00a0%", "100\u00a0%",
    ]  # fmt: skip


def test_calibration_in_words_tells_the_direction() -> None:
    labels = np.array([0] * 60 + [1] * 40)
    sure = evaluate(labels, ("a", "b"), probabilities=np.tile([0.95, 0.05], (100, 1))).calibration
    shy = evaluate(labels, ("a", "b"), probabilities=np.tile([0.51, 0.49], (100, 1))).calibration
    honest = evaluate(labels, ("a", "b"), probabilities=np.tile([0.6, 0.4], (100, 1))).calibration
    assert sure is not None
    assert shy is not None
    assert honest is not None
    assert "too sure of itself" in " ".join(words.calibration(sure, 0.6))
    assert "too shy: " in " ".join(words.calibration(shy, 0.6))
    assert "neither too sure" in " ".join(words.calibration(honest, 0.6))
    assert "off by 35.0\u00a0points" in words.calibration(sure, 0.6)[0]


def test_the_verdict_is_never_softer_than_the_test() -> None:
    right, wrong = np.ones(40, dtype=bool), np.zeros(40, dtype=bool)
    assert words.verdict(compare(right, wrong), "the floor").startswith("Training beat the floor")
    assert words.verdict(compare(wrong, right), "the floor").startswith("Training did not beat the floor")
    assert "no clear difference" in words.verdict(compare(right, right), "the floor")


def test_small_classes_are_not_called_best_or_worst() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    predicted = labels.copy()
    predicted[:5], predicted[-1] = 1, 0
    found = words.best_and_worst(evaluate(labels, ("a", "b", "c"), predicted=predicted))
    assert found is not None
    assert [score.name for score in found] == ["b", "a"]
    assert words.best_and_worst(evaluate(labels, ("a", "b", "c"), predicted=labels)) is None
