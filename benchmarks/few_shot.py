"""Few-shot in closed form, beside scikit-learn's RidgeClassifierCV on the same rows and penalties."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeClassifierCV

from benchmarks.measure import Row, limit_row
from vitrail.evaluators.few_shot import draw_shots, fit_few_shots

NUM_CLASSES, NUM_FEATURES, SHOTS = 1000, 768, (1, 5, 10, 25)
PENALTIES = tuple(2.0**power for power in range(20))


def measure_few_shot(_: Path | None) -> list[Row]:
    """Made-up features; the answers for one test picture a class are part of the time."""
    rows = []
    for per_class in (10, 25):
        generator = np.random.default_rng(0)
        labels = np.repeat(np.arange(NUM_CLASSES), per_class)
        centres = generator.normal(size=(NUM_CLASSES, NUM_FEATURES)).astype(np.float32)
        train = centres[labels] + 3 * generator.normal(size=(len(labels), NUM_FEATURES)).astype(np.float32)
        test = centres + 3 * generator.normal(size=centres.shape).astype(np.float32)
        start = time.perf_counter()
        models = fit_few_shots(train, labels, NUM_CLASSES, shots=SHOTS, penalties=PENALTIES)
        accuracies = [float((model.predict(test) == np.arange(NUM_CLASSES)).mean()) for model in models]
        seconds = time.perf_counter() - start
        detail = f" ({', '.join(f'{100 * accuracy:.0f}' for accuracy in accuracies)} %)"
        what = f"shots 1 5 10 25 of {per_class} x 1000 classes x 768, 20 penalties"
        if per_class > 10:
            rows.append(Row(what, f"{seconds:.2f} s{detail}"))
            continue
        rows.append(limit_row(what, seconds, 2, "s", detail))
        sets = draw_shots(labels, NUM_CLASSES, SHOTS, seed=0)
        start = time.perf_counter()
        for chosen in sets[:3]:  # the fourth is the third again
            x = (train[chosen] - train[chosen].mean(axis=0)) / train[chosen].std(axis=0)
            RidgeClassifierCV(alphas=PENALTIES).fit(x, labels[chosen])
        rows.append(Row("  scikit-learn's RidgeClassifierCV, shots 1 5 10", f"{time.perf_counter() - start:.2f} s"))
    return rows
