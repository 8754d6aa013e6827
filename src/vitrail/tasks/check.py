"""What is wrong with a data set, before anyone trains on it."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.data.config import ImageLimits
from vitrail.data.doctor import DataReport, examine, require_usable
from vitrail.data.sources import open_source
from vitrail.training.events import Events


@dataclass(frozen=True)
class CheckConfig:
    data: str  # as DataConfig.source
    strict: bool = False


def check(config: CheckConfig, events: Events) -> DataReport:
    """Examine every picture once.

    Raises:
        DataError: nothing that can be examined; with `strict`, pictures that are broken, unreadable, in two classes or
            on two sides of the given splits.
    """
    source = open_source(config.data)
    report = examine(
        source, ImageLimits(), progress=lambda done, total: events.progress("checking pictures", done, total)
    )
    if config.strict:
        require_usable(report, source, strict=True)
    return report
