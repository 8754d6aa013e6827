"""Figures that are kept: files below docs/performance, each with the machine that it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitrail.data.loader import num_cores
from vitrail.engines import trials

FOLDER = Path(__file__).parents[1] / "docs" / "performance"
PEERS = ("timm", "torchvision", "transformers", "openvino", "nncf")


def machine() -> dict[str, Any]:
    """What decides the figures: processor, memory, threads, and the versions of all that is measured."""
    found = {
        "processor": _processor(),
        **trials.machine(),
        "cores": num_cores(),
        "memory_gb": None,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    """Its name, as people know it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def today() -> str:
    """As 2026-01-31."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
