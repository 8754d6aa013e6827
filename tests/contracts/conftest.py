"""Lets the tests here import `published_layouts`, made-up data sets in their publishers' layouts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
