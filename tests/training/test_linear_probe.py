from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from vitrail.training.linear_probe import PROTOCOLS, Protocol, fit_sgd


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return ((pixels[:count] - 4.9) / 6).astype(np.float32), labels[:count].astype(np.int64)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_comes_near_logistic_regression_on_features_that_a_line_can_divide(name: str) -> None:
    pixels, labels = digits(1797)
    train, checked, test = slice(0, 800), slice(800, 1100), slice(1100, 1797)
    probe = fit_sgd(pixels[train], labels[train], pixels[checked], labels[checked], 10, PROTOCOLS[name])
    theirs = LogisticRegression(C=0.1, max_iter=1000).fit(pixels[train], labels[train])
    ours = float((probe.predict(pixels[test]) == labels[test]).mean())
    assert ours > theirs.score(pixels[test], labels[test]) - 0.03
    assert probe.validation_accuracy == pytest.approx((probe.predict(pixels[checked]) == labels[checked]).mean())


def test_the_rates_do_not_disturb_each_other_and_the_seed_decides() -> None:
    pixels, labels = digits(300)
    train, checked = slice(0, 200), slice(200, 300)
    protocol = Protocol(epochs=5, learning_rate=0.01)

    def fit(*factors: float, seed: int = 0) -> np.ndarray:
        probe = fit_sgd(
            pixels[train], labels[train], pixels[checked], labels[checked], 10, protocol, factors=factors, seed=seed
        )
        return probe.head.weight.detach().numpy()

    # A rate of nothing in the second place learns nothing, so that the first is chosen with or without it.
    assert (fit(10.0, 1e-9) == fit(10.0, 1e-6)).all()
    assert (fit(10.0) == fit(10.0)).all()
    assert (fit(10.0) != fit(10.0, seed=1)).any()


def test_features_of_any_scale_are_the_same_to_the_protocol_that_normalizes() -> None:
    pixels, labels = digits(300)
    train, checked = slice(0, 200), slice(200, 300)
    answers = []
    for scale in (np.float32(1), np.float32(128)):
        rows = scale * pixels
        probe = fit_sgd(
            rows[train], labels[train], rows[checked], labels[checked], 10, PROTOCOLS["mae"], factors=(1.0,)
        )
        answers.append(probe.predict(rows))
    assert (answers[0] == answers[1]).mean() > 0.97


def test_without_validation_rows_there_is_nothing_to_choose_by() -> None:
    pixels, labels = digits(50)
    with pytest.raises(ValueError, match="validation rows"):
        fit_sgd(pixels, labels, pixels[:0], labels[:0], 10, PROTOCOLS["dino"])
