from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vitrail.evaluators.linear import fit_linear


def test_the_probe_is_scikit_learns_at_the_strength_that_is_best_on_validation_rows() -> None:
    pixels, labels = load_digits(return_X_y=True)
    train, checked, test = slice(0, 400), slice(400, 700), slice(700, 1797)
    strengths = (1e-4, 1e-2, 1.0)
    ours = fit_linear(pixels[train], labels[train], pixels[checked], labels[checked], strengths=strengths)
    scaler = StandardScaler().fit(pixels[train])
    theirs = [
        LogisticRegression(C=c, max_iter=500).fit(scaler.transform(pixels[train]), labels[train]) for c in strengths
    ]
    scores = [model.score(scaler.transform(pixels[checked]), labels[checked]) for model in theirs]
    best = int(np.argmax(scores))
    assert (ours.strength, ours.converged) == (strengths[best], True)
    assert ours.validation_accuracy == pytest.approx(scores[best], abs=0.01)
    agree = ours.predict(pixels[test]) == theirs[best].predict(scaler.transform(pixels[test]))
    assert agree.mean() > 0.99


def test_a_probe_that_was_stopped_early_says_so() -> None:
    pixels, labels = load_digits(return_X_y=True)
    probe = fit_linear(pixels[:300], labels[:300], pixels[300:], labels[300:], strengths=(1.0,), max_iterations=2)
    assert not probe.converged
    with pytest.raises(ValueError, match="no validation rows"):
        fit_linear(pixels, labels, pixels[:0], labels[:0])
