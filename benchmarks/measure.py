"""Time whole commands: wall seconds and peak memory of the process and its children, medians over runs."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reached:
    """What was measured for a goal of goals.py, which says what the fields are."""

    goal: str
    value: float
    peer: str
    conditions: Mapping[str, bool]


@dataclass(frozen=True)
class Row:
    what: str
    value: str
    goal: str = ""
    met: bool | None = None  # None: nothing was promised, or it could not be measured
    reached: Reached | None = None  # for the table of the goals of speed


@dataclass(frozen=True)
class Timing:
    seconds: float  # median wall time
    spread: tuple[float, float]  # fastest and slowest
    peak_bytes: int  # largest resident size of one process, over all runs
    output: str  # of the last run, both streams


def vitrail(*arguments: str) -> list[str]:
    """The command as a user runs it: the script that installation puts beside this Python."""
    return [str(Path(sys.executable).parent / "vitrail"), *arguments]


def time_command(command: list[str], runs: int = 5, warmup: int = 1, cwd: Path | None = None) -> Timing:
    """Run the command `warmup` + `runs` times.

    Raises:
        RuntimeError: the command failed; what it printed is the message.
    """
    seconds, output = [], ""
    for run in range(warmup + runs):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        elapsed = time.perf_counter() - start
        output = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{output}")
        if run >= warmup:
            seconds.append(elapsed)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return Timing(statistics.median(seconds), (min(seconds), max(seconds)), peak, output)


def run_alone(code: str, *arguments: str, limit: float | None = None) -> str:
    """Run Python code in a process of its own, so that its peak memory is its own; returns what it printed.

    Args:
        limit: seconds, after which it is killed.
    Raises:
        RuntimeError: it failed; what it said is the message. subprocess.TimeoutExpired: it took longer.
    """
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=limit)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def limit_row(what: str, value: float, limit: float, unit: str, detail: str = "") -> Row:
    return Row(what, f"{value:.2f} {unit}{detail}", f"under {limit:g} {unit}", value < limit)


def print_rows(name: str, rows: list[Row]) -> None:
    print(f"\n{name}")
    for row in rows:
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        print(f"  {row.what:<58} {row.value:<34} {row.goal:<18} {verdict}")
