"""Run the measurements by name, or all of them: `python -m benchmarks.run [startup] [scan] [memory] [loading] ...`.

`speed` stands for those that the goals of speed are measured by. Where one of them was run, the table of these goals
comes last.

Real pictures come from the folder in VITRAIL_DATA (its `clothing-photos`, in class folders by split); rows that need
them are left out, and said to be, where it is not set.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    cifar,
    data_sets,
    dedup,
    embedding,
    few_shot,
    growth,
    hostile,
    inference,
    loader,
    loading,
    main_job,
    plan,
    predict,
    serving,
    speed,
    start_up,
    training,
)
from benchmarks.goals import GOALS
from benchmarks.measure import Row, print_rows

BENCHMARKS: dict[str, Callable[[Path | None], list[Row]]] = {
    "startup": start_up.measure_start_up,
    "scan": data_sets.measure_scan,
    "memory": data_sets.measure_memory,
    "check": data_sets.measure_check,
    "dedup": dedup.measure_dedup,
    "loader": loader.measure_loader,
    "predict": predict.measure_predict,
    "serving": serving.measure_serving,
    "hostile": hostile.measure_hostile,
    "embedding": embedding.measure_embedding,
    "loading": loading.measure_loading,
    "inference": inference.measure_inference,
    "few-shot": few_shot.measure_few_shot,
    "plan": plan.measure_plan,
    "training": training.measure_training,
    "cifar": cifar.measure_cifar,
    "growth": growth.measure_growth,
    "digits": main_job.measure_digits,
    "clothing": main_job.measure_clothing,
}
GROUPS = {"speed": speed.BENCHMARKS}


def main() -> int:
    asked = sys.argv[1:] or list(BENCHMARKS)
    names = list(dict.fromkeys(part for name in asked for part in GROUPS.get(name, (name,))))
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        known = ", ".join([*BENCHMARKS, *GROUPS])
        print(f"unknown benchmark {unknown[0]!r}; there are: {known}", file=sys.stderr)
        return 2
    folder = os.environ.get("VITRAIL_DATA")
    data = Path(folder).expanduser() if folder else None
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in names:
        rows = BENCHMARKS[name](data)
        print_rows(name, rows)
        speed.keep(rows)
    if any(goal.benchmark in names for goal in GOALS.values()):
        print(f"\nthe goals of speed, kept in {speed.FILE}\n\n{speed.table()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
