"""torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description, Model, Writing
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.checkpoint import Checkpoint


def describe(checkpoint: Checkpoint) -> Description:
    raise WeightsError(f"{checkpoint.where}: torchvision is not read yet")


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return ()


def write(model: Model) -> Writing:
    raise WeightsError("this layout is not written yet")


ADAPTER = Adapter("torchvision", "torchvision", (), lambda checkpoint: None, describe, entries)
