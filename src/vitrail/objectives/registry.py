"""The objectives by name."""

from __future__ import annotations

from vitrail.objectives.base import Objective
from vitrail.objectives.masked_patches import MaskedPatches
from vitrail.objectives.next_patch import NextPatch
from vitrail.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "masked_patches": MaskedPatches,
    "next_patch": NextPatch,
}
