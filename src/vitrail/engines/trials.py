"""Short measured trials, remembered for each machine: what is fastest here is asked once, never assumed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vitrail.storage import cache_folder, write_json

FILE = "trials.json"
_ROUNDS, _SECONDS = 7, 1.0


def machine() -> dict[str, Any]:
    """What decides how fast this machine is: with another of these, every trial is made anew."""
    return {"cpu": _cpu_model(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def remembered(question: str, facts: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer to a question on this machine: from the file where it was asked before, otherwise measured and kept.

    Args:
        question: such as "attention".
        facts: what else the answer depends on: shapes, precisions; JSON values.
        measure: gives the answer, JSON values.
    """
    key = json.dumps([question, machine(), dict(facts)], sort_keys=True)
    known = recall(question, facts)
    if known is not None:
        return known
    answer = measure()
    _keep(key, answer)
    return answer


def recall(question: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is remembered, or None."""
    answer = _read().get(json.dumps([question, machine(), dict(facts)], sort_keys=True))
    return answer if isinstance(answer, dict) else None


def keep(question: str, facts: Mapping[str, Any], answer: dict[str, Any]) -> None:
    """Remember an answer that was found on the way."""
    _keep(json.dumps([question, machine(), dict(facts)], sort_keys=True), answer)


def time_in_turns(candidates: Mapping[str, Callable[[], object]], seconds: float = _SECONDS) -> dict[str, float]:
    """Median seconds of each candidate, A B A B, so that a machine that grows slower does so for all.

    Args:
        seconds: about how long it may take in all; every candidate runs at least twice, the first time untimed.
    """
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for _ in range(_ROUNDS):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
        if time.perf_counter() - start > seconds:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def _path() -> Path:
    return cache_folder("engines") / FILE


def _read() -> dict[str, Any]:
    try:
        values = json.loads(_path().read_bytes())
    except (OSError, ValueError):  # never made, or damaged: made again
        return {}
    return values if isinstance(values, dict) else {}


def _keep(key: str, answer: dict[str, Any]) -> None:
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_read(), key: answer})
    except OSError:
        pass  # where nothing can be kept the trial is made again: slower, not wrong


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # Family, model and stepping too: a hypervisor may give many processors one name.
    wanted = ("model name", "cpu family", "model", "stepping", "flags")
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    parts = {name.strip(): value.strip() for name, value in found.items()}
    units = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni") if flag in parts.get("flags", "").split()]
    return " ".join([*(parts.get(name, "") for name in wanted[:-1]), *units, f"{os.cpu_count()} cores"])
