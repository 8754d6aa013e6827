from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from vitrail.evaluators.comparison import compare, sign_test


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(0, 300), st.integers(0, 300))
def test_the_p_value_is_scipys_exact_binomial_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert sign_test(wins, losses) == sign_test(losses, wins)


def test_a_hundred_thousand_pictures_are_no_trouble() -> None:
    assert sign_test(50_300, 49_700) == pytest.approx(binomtest(50_300, 100_000, 0.5).pvalue, rel=1e-6)
    assert sign_test(90_000, 10_000) == pytest.approx(0.0, abs=1e-300)


def _correct(*pairs: tuple[bool, bool, int]) -> tuple[np.ndarray, np.ndarray]:
    rows = [(model, floor) for model, floor, count in pairs for _ in range(count)]
    table = np.array(rows, dtype=bool).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@pytest.mark.parametrize(
    ("only_model", "only_floor", "verdict"),
    [(30, 5, "beat"), (5, 30, "did not beat"), (6, 5, "no clear difference"), (0, 0, "no clear difference"),
     (6, 0, "beat"), (5, 0, "no clear difference")],
)  # fmt: skip
def test_the_verdict_needs_more_than_luck(only_model: int, only_floor: int, verdict: str) -> None:
    model, floor = _correct((True, True, 40), (True, False, only_model), (False, True, only_floor), (False, False, 3))
    result = compare(model, floor)
    assert (result.only_model, result.only_floor, result.verdict) == (only_model, only_floor, verdict)
    assert result.num_pictures == 43 + only_model + only_floor
    assert result.to_json()["verdict"] == verdict


def test_pictures_that_both_get_right_do_not_change_the_verdict() -> None:
    few = compare(*_correct((True, False, 9), (False, True, 2)))
    many = compare(*_correct((True, False, 9), (False, True, 2), (True, True, 5000), (False, False, 700)))
    assert few.p_value == many.p_value


def test_unpaired_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        compare(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="vectors of bool"):
        compare(np.ones(3), np.ones(3))
