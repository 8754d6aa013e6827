"""How late a server says that it lives while hostile clients hold on to it: `/livez`, asked from another process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.hostile_client import ATTACKS
from benchmarks.measure import Row, run_alone
from benchmarks.predict import MAKE_BUNDLE
from benchmarks.serving import running_server

MODEL = "ViT-Ti/16"
CLIENTS = 4  # processes of each attack, on the server's own cores
SECONDS = 15  # longer than the server waits for a slow sender
GOAL = 0.1


def measure_hostile(data: Path | None) -> list[Row]:
    """Each attack by four processes without pause; a slow sender holds 50 connections in each."""
    with tempfile.TemporaryDirectory() as place:
        bundle = f"{place}/bundle"
        run_alone(MAKE_BUNDLE, bundle, MODEL)
        with running_server(bundle) as (address, _):
            host, _, port = address.removeprefix("http://").rpartition(":")
            return [_row("nobody", _livez(host, port)), *(_attacked(host, port, attack) for attack in ATTACKS)]


def _attacked(host: str, port: str, attack: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.hostile_client", host, port, attack, str(SECONDS + 4)]
    clients = [subprocess.Popen(command) for _ in range(CLIENTS)]
    try:
        time.sleep(2)  # until all of them send
        row = _row(attack, _livez(host, port))
        if gone := [client.returncode for client in clients if client.poll() is not None]:
            raise RuntimeError(f"hostile clients ended too early: {gone}")
        return row
    finally:
        for client in clients:
            client.wait()


def _livez(host: str, port: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.health_client", host, port, str(SECONDS)]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _row(attack: str, seconds: list[float]) -> Row:
    median, slowest = 1000 * statistics.median(seconds), 1000 * max(seconds)
    value = f"median {median:.1f} ms, slowest of {len(seconds)} {slowest:.1f} ms"
    return Row(attack, value, f"under {1000 * GOAL:g} ms", max(seconds) < GOAL)
