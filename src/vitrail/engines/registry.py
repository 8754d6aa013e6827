"""The ways to run a model for inference."""

from __future__ import annotations

from vitrail.engines.base import Engine
from vitrail.engines.config import EngineName
from vitrail.engines.torch_engine import TorchEngine

ENGINES: dict[EngineName, Engine] = {"torch": TorchEngine()}


def installed_engines() -> tuple[EngineName, ...]:
    """Names of the engines that can run here."""
    return tuple(name for name, engine in ENGINES.items() if engine.missing() is None)
