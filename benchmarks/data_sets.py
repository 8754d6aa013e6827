"""Listing, checking and holding data sets, from a thousand real photographs to a million rows."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import time
import zlib
from pathlib import Path

from benchmarks.measure import Row, limit_row, run_alone, time_command, vitrail

_SCAN = """
import sys, time
from vitrail.data.sources import open_source
start = time.perf_counter()
source = open_source(sys.argv[1])
print(time.perf_counter() - start, len(source), len(source.classes))
"""


def measure_scan(data: Path | None) -> list[Row]:
    """100,000 class folders with one picture each."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100_000):
            place = Path(folder) / f"class-{number:06d}"
            place.mkdir()
            (place / "1.jpg").touch()
        seconds, pictures, classes = run_alone(_SCAN, folder).split()
    return [limit_row(f"scan of {int(classes):,} class folders, {int(pictures):,} files", float(seconds), 10, "s")]


# Everything `fit` does before its first step.
_MEMORY = """
import resource, sys
import numpy as np
from vitrail.data.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.split import TRAIN
from vitrail.tasks.prepare import prepare_data
from vitrail.tasks.floor import measure_floor
from vitrail.data.loader import Loader
from vitrail.data.transforms import EvaluationTransform
from vitrail.data.config import LoaderConfig, Preprocessing
from vitrail.training.events import Events
prepared = prepare_data(open_source(sys.argv[1]), DataConfig(sys.argv[1]), Events())
measure_floor(prepared)
transform = EvaluationTransform(Preprocessing(image_size=(32, 32)))
loader = Loader(prepared.source, prepared.indices(TRAIN), transform, batch_size=32, seed=0,
                config=LoaderConfig(num_workers=0))
next(iter(loader.stream(0, 1)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
"""


def _png(number: int) -> bytes:
    """An 8x8 RGB picture of its own for each number, 250 bytes: written by hand, a million of them in a minute."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    noise = hashlib.shake_128(number.to_bytes(4, "big")).digest(8 * 24)
    rows = b"".join(b"\0" + noise[row * 24 : row * 24 + 24] for row in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def measure_memory(data: Path | None) -> list[Row]:
    """A folder of 1,000,000 small pictures in 1,000 classes, made for this."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1_000_000):
            place = Path(folder) / f"class-{number // 1000:03d}"
            if number % 1000 == 0:
                place.mkdir()
            (place / f"{number:06d}.png").write_bytes(_png(number))
        start = time.perf_counter()
        gigabytes = float(run_alone(_MEMORY, folder))
        seconds = time.perf_counter() - start
    what = "peak memory before the first step, 1,000,000 files"
    return [limit_row(what, gigabytes, 1.5, "GB", f" in {seconds:.0f} s")]


def measure_check(data: Path | None) -> list[Row]:
    if data is None or not (data / "clothing-photos").is_dir():
        return [Row("checks and floor on clothing-photos", "left out: VITRAIL_DATA has no clothing-photos")]
    timing = time_command(vitrail("check", str(data / "clothing-photos")), runs=3)
    return [Row("vitrail check clothing-photos, whole process", f"{timing.seconds:.1f} s")]
