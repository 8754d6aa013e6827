"""What a recipe is given: the data, the facts about it, and the weights to start from."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.facts import DataFacts
from vitrail.models.kinds import ModelConfig


@dataclass(frozen=True)
class StartingWeights:
    """A bundle to start from: where it is, and the architecture and preprocessing it brings."""

    path: str
    model: ModelConfig
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Situation:
    data: DataConfig
    facts: DataFacts = field(default_factory=DataFacts)
    start: StartingWeights | None = None
    seed: int = 0
    balance: bool = False
