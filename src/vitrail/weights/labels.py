"""Names of classes for weights that come without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def default_labels(num_classes: int) -> tuple[str, ...]:
    """ "class 0", "class 1", ..., zero-padded so that they sort in their order."""
    digits = len(str(max(0, num_classes - 1)))
    return tuple(f"class {index:0{digits}}" for index in range(num_classes))


def unique_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels with their index behind those that occur more than once: ImageNet has two cranes."""
    counts = Counter(labels)
    return tuple(f"{label} ({index})" if counts[label] > 1 else label for index, label in enumerate(labels))
