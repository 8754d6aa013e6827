"""big_vision."""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.checkpoint import Checkpoint


def describe(checkpoint: Checkpoint) -> Description:
    raise WeightsError(f"{checkpoint.where}: big_vision is not read yet")


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return ()


ADAPTER = Adapter("big_vision", "big_vision", (), lambda checkpoint: None, describe, entries)
