"""How cost grows on this machine's CPU: speed and peak memory by batch, pixels, size of the model, and threads.

Inference by the torch engine, not compiled, in both precisions; an update with AdamW under bfloat16's autocast. One
thing varies at a time about one point in the middle, `MIDDLE`. Each point is a process of its own (growth_point.py)
with a time limit; one without a figure says why. All is kept in docs/performance/growth.json, and drawn beside it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth_plots import draw
from benchmarks.measure import Row, run_alone
from benchmarks.record import FOLDER, machine, today
from vitrail.storage import write_json

FILE = FOLDER / "growth.json"
POINT_SECONDS, ALL_SECONDS = 60.0, 480.0
WORKS = (("inference", "float32"), ("inference", "bfloat16"), ("update", "bfloat16"))
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PIXELS = (64, 96, 128, 160, 224, 256, 384, 512)
MODELS = ("ViT-Ti/16", "ViT-S/16", "ViT-B/16", "ViT-L/16")
TOO_LARGE = {("update", "ViT-L/16")}  # some 5 GB, a minute

_POINT = "from benchmarks.growth_point import main; main()"


@dataclass(frozen=True)
class Point:
    """What is measured, in the order in which growth_point.py takes it."""

    work: str
    precision: str
    model: str
    pixels: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.work} {self.precision}, {self.model} at {self.pixels}, batch {self.batch}, threads {self.threads}"
        )


MIDDLE = Point("inference", "float32", "ViT-Ti/16", 224, 8, threads=1)  # with all threads


def measure_growth(_: Path | None) -> list[Row]:
    start = time.perf_counter()
    found, rows = [], []
    for point in points(torch.get_num_threads()):
        is_late = time.perf_counter() - start > ALL_SECONDS
        measured = {"error": f"left out: {ALL_SECONDS / 60:g} minutes are over"} if is_late else _measure(point)
        found.append({**asdict(point), **measured})
        rows.append(Row(str(point), _said(measured, point.batch)))
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(FILE, {"date": today(), "machine": machine(), "points": found})
    files = draw(FILE)
    return [*rows, Row("kept and drawn", f"{len(files) + 1} files in {FOLDER}")]


def points(threads: int) -> list[Point]:
    """Each once, the quick ones first."""
    return list(dict.fromkeys(_points(threads)))


def _points(threads: int) -> Iterator[Point]:
    for work, precision in WORKS:
        middle = replace(MIDDLE, work=work, precision=precision, threads=threads)
        yield from (replace(middle, batch=batch) for batch in BATCHES)
        yield from (replace(middle, pixels=pixels) for pixels in PIXELS)
        yield from (replace(middle, threads=count) for count in _counts(threads))
    for model in MODELS:
        for work, precision in WORKS:
            if (work, model) not in TOO_LARGE:
                yield replace(MIDDLE, work=work, precision=precision, threads=threads, model=model)


def _counts(threads: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    return sorted({2**power for power in range(threads.bit_length())} | {threads})


def _measure(point: Point) -> dict[str, Any]:
    try:
        return dict(json.loads(run_alone(_POINT, json.dumps(astuple(point)), limit=POINT_SECONDS)))
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {POINT_SECONDS:g} s"}
    except RuntimeError as error:  # most often memory
        return {"error": (str(error).strip().splitlines() or ["the process was killed"])[-1]}


def _said(measured: dict[str, Any], batch: int) -> str:
    if "error" in measured:
        return str(measured["error"])
    memory = "" if measured["peak_mib"] is None else f", {measured['peak_mib']:,.0f} MiB"
    return f"{batch / measured['seconds']:.1f} pictures/s{memory}"
