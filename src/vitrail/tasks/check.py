"""What is wrong with a data set, before anyone trains on it."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.data.config import ImageLimits
from vitrail.data.doctor import DataReport, examine
from vitrail.data.sources import open_source
from vitrail.training.events import Events


@dataclass(frozen=True)
class CheckConfig:
    data: str  # as DataConfig.source


def check(config: CheckConfig, events: Events) -> DataReport:
    """Examine every picture once.

    Raises:
        DataError: there is nothing that can be listed.
    """
    source = open_source(config.data, progress=events.download)
    return examine(
        source, ImageLimits(), progress=lambda done, total: events.progress("checking pictures", done, total)
    )
