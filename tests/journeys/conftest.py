"""Lets the tests here import `hub_server`, the small hub on this machine that the tests of weights have."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))
