"""Lets the tests here import `toy_run`, a whole tiny run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
