"""The main job, `vitrail fit`, as a whole command from its start to its report."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, limit_row, time_command, vitrail


def _fit(data: str, runs: int) -> tuple[float, dict[str, Any]]:
    """Median wall seconds of `vitrail fit DATA`, and the answer of the last run."""
    with tempfile.TemporaryDirectory() as folder:
        timing = time_command(vitrail("fit", data, "--json"), runs=runs, warmup=0, cwd=Path(folder))
    start = timing.output.index("{")
    answer, _ = json.JSONDecoder().raw_decode(timing.output[start:])
    return timing.seconds, answer


def measure_digits(data: Path | None) -> list[Row]:
    seconds, answer = _fit("digits", runs=3)
    accuracy = answer["test_accuracy"]
    return [
        limit_row("vitrail fit digits, whole command", seconds, 60, "s"),
        Row("its test accuracy", f"{accuracy:.4f}", "at least 0.98", accuracy >= 0.98),
    ]


def measure_clothing(data: Path | None) -> list[Row]:
    if data is None or not (data / "clothing-photos").is_dir():
        return [Row("vitrail fit clothing-photos", "left out: VITRAIL_DATA has no clothing-photos")]
    start = time.perf_counter()
    seconds, answer = _fit(str(data / "clothing-photos"), runs=1)
    assert seconds <= time.perf_counter() - start
    accuracy, floor = answer["test_accuracy"], answer["floor_test_accuracy"]
    return [
        limit_row("vitrail fit clothing-photos, whole command", seconds / 60, 15, "min"),
        limit_row("its checks and floor", answer["seconds"]["check"] + answer["seconds"]["floor"], 15, "s"),
        Row("its test accuracy (floor)", f"{accuracy:.3f} ({floor:.3f})", "at least 0.50", accuracy >= 0.5),
    ]
