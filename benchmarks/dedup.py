"""All pairs of two sets of a million 64-bit hashes within a Hamming distance."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Row, limit_row, run_alone

NUM_HASHES = 1_000_000
DISTANCES = (4, 8, 10)

# Random hashes, and a thousand pairs planted three bits apart, which must all be among what is found.
_PAIRS = """
import resource, sys, time
import numpy as np
from vitrail.data.hamming import pairs_within
number, distance = int(sys.argv[1]), int(sys.argv[2])
generator = np.random.default_rng(0)
first, second = (generator.integers(0, 2**64, number, dtype=np.uint64) for _ in range(2))
second[:1000] = first[:1000] ^ np.uint64(0b10011)
start = time.perf_counter()
planted = pairs = 0
for rows, columns, _ in pairs_within(first, second, distance):
    pairs += len(rows)
    planted += int(((rows == columns) & (rows < 1000)).sum())
seconds = time.perf_counter() - start
assert planted == 1000, planted
print(seconds, pairs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
"""


def measure_dedup(data: Path | None) -> list[Row]:
    """One process, one thread."""
    rows = []
    for distance in DISTANCES:
        seconds, pairs, gigabytes = run_alone(_PAIRS, str(NUM_HASHES), str(distance)).split()
        what = f"{NUM_HASHES:,} x {NUM_HASHES:,} hashes within {distance} bits"
        detail = f", {int(pairs):,} pairs, {float(gigabytes):.2f} GB"
        rows.append(limit_row(what, float(seconds), 300, "s", detail))
    return rows
