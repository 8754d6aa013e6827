from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import CONFIG

from vitrail.errors import ConfigError
from vitrail.training.config import ScheduleConfig
from vitrail.training.schedule import learning_rate_at, make_plan

COSINE = {"peak": 0.03, "total_steps": 10_000, "warmup_steps": 500, "decay": "cosine"}
LINEAR = {"peak": 1e-3, "total_steps": 100_000, "warmup_steps": 10_000, "decay": "linear", "end": 1e-5}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0), (1, 6e-5), (250, 0.015), (500, 0.03), (501, 0.029999999), (5250, 0.015), (9999, 8.2019e-10), (10_000, 0)],
)
def test_cosine_agrees_with_the_reference_code(step: int, expected: float) -> None:
    assert learning_rate_at(step, **COSINE) == pytest.approx(expected, rel=1e-4, abs=1e-15)


@pytest.mark.parametrize(
    ("step", "expected"), [(5000, 5e-4), (10_000, 1e-3), (20_000, 8.9e-4), (50_000, 5.6e-4), (100_000, 1e-5)]
)
def test_linear_agrees_with_the_reference_code(step: int, expected: float) -> None:
    assert learning_rate_at(step, **LINEAR) == pytest.approx(expected, rel=1e-2 if step == 50_000 else 1e-9)


def test_constant_stays_at_its_peak_after_the_warm_up() -> None:
    rates = [learning_rate_at(step, peak=2.0, total_steps=8, warmup_steps=4, decay="constant") for step in range(10)]
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_without_a_warm_up_the_first_update_has_the_peak_rate() -> None:
    assert learning_rate_at(0, peak=0.1, total_steps=10) == 0.1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    decay=st.sampled_from(["cosine", "linear", "constant"]),
    total=st.integers(1, 500),
    warmup=st.integers(0, 600),
    step=st.integers(0, 700),
)
def test_a_rate_lies_between_nothing_and_its_peak(decay: str, total: int, warmup: int, step: int) -> None:
    rate = learning_rate_at(step, peak=0.5, total_steps=total, warmup_steps=warmup, decay=decay)
    assert 0.0 <= rate <= 0.5


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="'cosin' is none of"):
        learning_rate_at(0, peak=1.0, total_steps=1, decay="cosin")  # type: ignore[arg-type]


def test_a_plan_counts_steps_and_always_ends_with_an_evaluation() -> None:
    config = replace(
        CONFIG,
        schedule=ScheduleConfig(epochs=2.5, warmup_epochs=0.5),
        evaluate_every_epochs=0.7,
        early_stopping_epochs=1.5,
    )
    plan = make_plan(config, steps_per_epoch=10)
    assert (plan.total_steps, plan.warmup_steps, plan.evaluate_every_steps, plan.patience_steps) == (25, 5, 7, 15)
    assert [step for step in range(26) if plan.evaluates_after(step)] == [7, 14, 21, 25]


def test_given_steps_take_the_place_of_epochs_and_still_leave_room_after_the_warm_up() -> None:
    plan = make_plan(replace(CONFIG, schedule=ScheduleConfig(epochs=100, steps=6, warmup_epochs=5)), steps_per_epoch=10)
    assert (plan.total_steps, plan.warmup_steps) == (6, 3)


def test_a_rhythm_of_zero_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"evaluate_every_epochs 0\.0"):
        make_plan(replace(CONFIG, evaluate_every_epochs=0.0), steps_per_epoch=10)


def test_a_stair_falls_tenfold_at_three_six_and_nine_tenths() -> None:
    rates = [learning_rate_at(step, peak=1.0, total_steps=500, warmup_steps=100, decay="stair") for step in range(500)]
    assert rates[50] == 0.5
    assert [rates[149], rates[150], rates[299], rates[300], rates[449], rates[450]] == pytest.approx(
        [1.0, 0.1, 0.1, 0.01, 0.01, 0.001]
    )
