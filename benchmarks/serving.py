"""A server under load beside the bare model, on the same cores: what HTTP, decoding and batching take of its speed."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, run_alone, vitrail
from benchmarks.predict import MAKE_BUNDLE

MODEL, CLIENTS, SECONDS, TURNS = "ViT-Ti/16", 64, 30, 3
CROWD, CROWD_SECONDS = 1000, 15
GOAL_SHARE, GOAL_RECOVERY = 0.85, 5.0
NUM_PICTURES = 32

_BARE = """
import sys, time
import torch
from vitrail.weights.bundle import load_bundle
model = load_bundle(sys.argv[1]).model
images = torch.randn(16, 3, 224, 224)
with torch.inference_mode():
    model(images)
    begin, batches = time.perf_counter(), 0
    while time.perf_counter() - begin < 10:
        model(images)
        batches += 1
    print(16 * batches / (time.perf_counter() - begin))
"""


def measure_serving(data: Path | None) -> list[Row]:
    """Server, clients and, in turns with them, the bare model share the machine."""
    with tempfile.TemporaryDirectory() as place:
        bundle = f"{place}/bundle"
        run_alone(MAKE_BUNDLE, bundle, MODEL)
        files = _pictures(data, Path(place))
        bare, served = [], []
        with running_server(bundle) as (address, process):
            _load(address, CLIENTS, 5, files)
            for _ in range(TURNS):
                bare.append(float(run_alone(_BARE, bundle)))
                served.append(_load(address, CLIENTS, SECONDS, files))
            before = _memory(process)
            crowd = _load(address, CROWD, CROWD_SECONDS, files)
            recovery = _seconds_to_answer(address, files[0])
            after = _memory(process)
    rate = statistics.median(found["a_second"] for found in served)
    share = statistics.median(found["a_second"] / alone for found, alone in zip(served, bare, strict=True))
    statuses = set(crowd["statuses"])
    return [
        Row(f"bare {MODEL}, batches of 16", f"{statistics.median(bare):.1f} pictures a second"),
        Row(f"served to {CLIENTS} clients, {SECONDS} s", f"{rate:.1f} pictures a second"),
        Row("served / bare", f"{share:.2f}", f"at least {GOAL_SHARE:g}", share >= GOAL_SHARE),
        Row("  half of the answers within", f"{statistics.median(found['median'] for found in served):.2f} s"),
        Row("  99 % of the answers within", f"{statistics.median(found['p99'] for found in served):.2f} s"),
        Row(
            f"{CROWD:,} clients at once",
            ", ".join(f"{status}: {count:,}" for status, count in sorted(crowd["statuses"].items())),
            "only 200 and 429",
            statuses <= {"200", "429"},
        ),
        Row("  memory before and after", f"{before:.0f} and {after:.0f} MiB"),
        Row("  an answer afterwards", f"{recovery:.2f} s", f"within {GOAL_RECOVERY:g} s", recovery <= GOAL_RECOVERY),
    ]


def _pictures(data: Path | None, place: Path) -> list[str]:
    """Photographs, or made-up pictures of a photograph's size."""
    if data is not None and (data / "clothing-photos").is_dir():
        return [str(file) for file in sorted((data / "clothing-photos").rglob("*.jpg"))[:NUM_PICTURES]]
    noise = np.random.default_rng(0).integers(0, 256, (NUM_PICTURES, 34, 25, 3), dtype=np.uint8)
    files = [str(place / f"{number}.jpg") for number in range(NUM_PICTURES)]
    for file, pixels in zip(files, noise, strict=True):
        Image.fromarray(pixels).resize((400, 533)).save(file)
    return files


@contextmanager
def running_server(bundle: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = vitrail("serve", bundle, "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        try:
            while not _is_ready(address):
                time.sleep(0.2)
            yield address, process
        finally:
            process.terminate()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def _load(address: str, clients: int, seconds: float, files: list[str]) -> dict[str, object]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    command = [sys.executable, "-m", "benchmarks.load_client", host, port, str(clients), str(seconds), *files]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _seconds_to_answer(address: str, file: str) -> float:
    begin = time.perf_counter()
    body = Path(file).read_bytes()
    while True:
        request = urllib.request.Request(f"{address}/v1/predict", body, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=30):
                return time.perf_counter() - begin
        except urllib.error.HTTPError:
            time.sleep(0.05)


def _memory(process: subprocess.Popen[str]) -> float:
    """Resident, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
