"""Pictures that come with a dependency: the handwritten `digits` of scikit-learn."""

from __future__ import annotations

import numpy as np

from vitrail.data.config import ImageLimits
from vitrail.data.sources.base import ArraySource
from vitrail.data.split import UNASSIGNED


def open_digits(spec: str, limits: ImageLimits) -> ArraySource:
    """1,797 grey pictures of 8 x 8 pixels, 10 classes (Alpaydin and Kaynak 1998); levels 0-16 become 0-255."""
    from sklearn.datasets import load_digits  # a second of imports that no other source needs

    digits = load_digits()
    return ArraySource(
        name="digits",
        spec=spec,
        pixels=np.round(digits.images * (255 / 16)).astype(np.uint8),
        classes=tuple(str(name) for name in digits.target_names),
        labels=digits.target.astype(np.int64),
        splits=np.full(len(digits.target), UNASSIGNED, dtype=np.int8),
    )
