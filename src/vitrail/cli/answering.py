"""The options of commands that let a model answer for many pictures: what runs it, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.engines.config import AnsweringConfig


@dataclass(frozen=True, kw_only=True)
class AnsweringOptions:
    """See `AnsweringConfig`."""

    engine: Literal["auto", "torch", "openvino", "onnx"] = "auto"
    """What runs the model; auto: with many pictures the fastest of those installed, else the model itself."""
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """What it multiplies in; auto: the faster of the first two that stays within 2 %. int8 needs --labelled."""
    labelled: str | None = None
    """Labelled pictures, as for `vitrail evaluate`: int8 is calibrated and its accuracy measured on them."""
    max_loss: float = 0.3
    """Points of accuracy that int8 may lose on them; where it loses more it is refused."""

    def answering(self) -> AnsweringConfig:
        """The same for the task. Raises ConfigError where the options do not go together."""
        return AnsweringConfig(self.engine, self.precision, self.labelled, self.max_loss / 100)
