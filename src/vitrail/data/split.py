"""Which sample is for training, which for choosing (validation) and which for the last word (test)."""

from __future__ import annotations

UNASSIGNED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")  # index = number of the split
SPLITS_BY_NAME = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
