"""The ways to run a model for inference."""

from __future__ import annotations

from vitrail.engines.base import Engine
from vitrail.engines.config import EngineName
from vitrail.engines.onnx_engine import OnnxEngine
from vitrail.engines.openvino_engine import OpenVINOEngine
from vitrail.engines.torch_engine import TorchEngine

# What another package brings is imported when a model is prepared, and not before.
ENGINES: dict[EngineName, Engine] = {"torch": TorchEngine(), "openvino": OpenVINOEngine(), "onnx": OnnxEngine()}


def installed_engines() -> tuple[EngineName, ...]:
    """Names of the engines that can run here."""
    return tuple(name for name, engine in ENGINES.items() if engine.missing() is None)
