"""The goals of speed as one table, and what was measured for each, kept in docs/performance/speed.json.

A run replaces what it measured. What it did not measure stays with its date, but not from another machine or other
versions: figures that cannot be compared never stand in one table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.measure import Row
from benchmarks.record import FOLDER, machine, today
from vitrail.storage import write_json

FILE = FOLDER / "speed.json"
# Of all goals but CIFAR-10's, which alone takes as long as these together.
BENCHMARKS = ("training", "loader", "inference", "predict", "embedding")


def keep(rows: Iterable[Row]) -> None:
    """Put those that answer a goal into the file."""
    reached = {
        row.reached.goal: {
            "work": GOALS[row.reached.goal].work,
            "peer": row.reached.peer,
            "value": round(row.reached.value, 4),
            "unit": GOALS[row.reached.goal].unit,
            "conditions": dict(row.reached.conditions),
            "goal": GOALS[row.reached.goal].least,
            "met": row.met,
            "date": today(),
        }
        for row in rows
        if row.reached is not None
    }
    if reached:
        here = machine()
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(FILE, {"machine": here, "goals": {**_kept(here), **reached}})


def table() -> str:
    """Markdown, aligned, so that a page can take it as it is."""
    kept = _kept(machine())
    lines = [("work", "best peer", "measured", "goal", "", "on"), ("---",) * 6]
    for name, goal in GOALS.items():
        wanted = f"{goal.least:g} {goal.unit}"
        found = kept.get(name)
        if found is None:
            lines.append((goal.work, "", f"`make bench ARGS={goal.benchmark}`", wanted, "", ""))
            continue
        measured = "; ".join([f"{found['value']:.2f} {found['unit']}", *found["conditions"]])
        lines.append(
            (goal.work, found["peer"], measured, wanted, "met" if found["met"] else "**NOT MET**", found["date"])
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def _kept(here: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, if it is of this machine."""
    if not FILE.exists():
        return {}
    values = json.loads(FILE.read_bytes())
    return dict(values["goals"]) if values["machine"] == here else {}
