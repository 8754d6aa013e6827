"""What a recipe needs to know of a data set, before anything is opened in earnest."""

from __future__ import annotations

import numpy as np

from vitrail.data.config import DataConfig
from vitrail.data.facts import describe
from vitrail.data.sources import open_pictures
from vitrail.data.sources.base import Source
from vitrail.data.split import TRAIN, UNASSIGNED
from vitrail.download import Progress
from vitrail.recipes import Situation


def situation(data: DataConfig, source: Source | None = None, progress: Progress | None = None) -> Situation:
    """From the listing and a few headers.

    Args:
        source: `data`, where it has been opened already.
        progress: as `open_source`.
    """
    # Whether its pictures have classes is for the task to ask: a recipe without labels needs none.
    source = open_pictures(data.source, progress=progress) if source is None else source
    train = np.flatnonzero((source.splits == TRAIN) | (source.splits == UNASSIGNED))
    return Situation(data, describe(source, train))
