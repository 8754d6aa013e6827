"""Every code block of docs/ runs, in order, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
# In this order: later pages use the run that the first one makes.
PAGES = (
    "fit.md",
    "probe.md",
    "embed.md",
    "inspect.md",
    "serve.md",
    "train.md",
    "data.md",
    "dedup.md",
    "models.md",
    "weights.md",
    "study.md",
    "suite.md",
    "plan.md",
    "bench.md",
)
_FENCE = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _make_photos(folder: Path) -> None:
    """Two classes of 10-pixel pictures, light above dark and dark above light, 24 of each."""
    generator = np.random.default_rng(0)
    for name, top in (("day", 200), ("night", 60)):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            pixels = generator.integers(0, 50, (10, 10, 3)) + 100
            pixels[:5] += top - 130
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def test_every_code_block_of_the_documents_runs(tmp_path: Path) -> None:
    _make_photos(tmp_path / "photos")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for page in PAGES:
        blocks = _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
        assert blocks, f"{page} has no code"
        for language, code in blocks:
            command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-W", "error", "-c", code]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page}:\n{code}\n{done.stdout}\n{done.stderr}"


def test_every_page_of_the_documents_is_run_or_has_no_code() -> None:
    for page in DOCS.glob("*.md"):
        if page.name not in PAGES:
            assert not _FENCE.search(page.read_text(encoding="utf-8")), f"{page.name} is not in PAGES"


def test_the_page_on_speed_says_what_was_measured() -> None:
    measured = DOCS / "performance" / "speed.json"
    if not measured.exists():
        pytest.skip("nothing was measured yet")
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    rows = {cells[0]: cells for line in page.splitlines() if (cells := [cell.strip() for cell in line.split("|")[1:]])}
    for goal in json.loads(measured.read_bytes())["goals"].values():
        _, peer, said, _, verdict, date, *_ = rows[goal["work"]]
        assert (peer, date) == (goal["peer"], goal["date"]), goal["work"]
        assert said == "; ".join([f"{goal['value']:.2f} {goal['unit']}", *goal["conditions"]]), goal["work"]
        assert verdict.strip("*") == ("met" if goal["met"] else "NOT MET"), goal["work"]
