"""The few facts about a data set that decide which recipe suits it; read from headers alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrail.data.sources.base import Source
from vitrail.errors import ImageError

_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"})


@dataclass(frozen=True)
class DataFacts:
    num_classes: int = 10
    num_train: int = 1000  # training pictures
    picture_size: tuple[int, int] = (224, 224)  # median (height, width), pixels
    num_channels: int = 3  # 1 where every sampled picture is grey


def describe(source: Source, train: npt.NDArray[np.int64], sample_size: int = 64) -> DataFacts:
    """Facts from the headers of up to `sample_size` training pictures, evenly spaced through `train` (indices).

    Unreadable pictures are passed over: they are the data check's business, which names them.
    """
    sizes: list[tuple[int, int]] = []
    modes: set[str] = set()
    for index in train[np.unique(np.linspace(0, len(train) - 1, min(sample_size, len(train))).astype(int))]:
        try:
            picture = source.open(int(index))
        except ImageError:
            continue
        sizes.append(picture.size)
        modes.add(picture.mode)
    if not sizes:
        return DataFacts(num_classes=len(source.classes), num_train=len(train))
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return DataFacts(
        num_classes=len(source.classes),
        num_train=len(train),
        picture_size=(height, width),
        num_channels=1 if modes <= _GREY_MODES else 3,
    )
