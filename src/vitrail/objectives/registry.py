"""The objectives by name."""

from __future__ import annotations

from vitrail.objectives.base import Objective
from vitrail.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
}
