"""What every engine owes: a model prepared once, that answers batches of any size and says what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.engines.config import EngineName, InferenceConfig, Precision
from vitrail.weights.bundle import Bundle


@dataclass(frozen=True)
class Description:
    """How a prepared model runs.

    Attributes:
        engine, precision: as asked for.
        is_compiled: by torch's compiler, or by the engine itself.
        way: "folded" for Vision Transformers laid out anew, "plain" for the model as it is.
        notes: what else a user should know: layers in another precision, what was tried.
    """

    engine: EngineName
    precision: Precision
    is_compiled: bool
    way: str
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        words = [self.engine, self.precision, self.way, "compiled" if self.is_compiled else "not compiled"]
        return ", ".join([*words, *self.notes])


class Prepared:
    """A model ready to answer.

    Args:
        answer: (B, C, H, W) uint8 -> (B, K) float32, for any B of at least 1.
        description: of what it is.
        preprocessing: how the pictures were made: the bytes that the evaluation transform gives, not normalised.
    """

    def __init__(
        self, answer: Callable[[Tensor], Tensor], description: Description, preprocessing: Preprocessing
    ) -> None:
        self._answer = answer
        self.description = description
        self.image_shape = (preprocessing.num_channels, *preprocessing.image_size)
        self._width: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, K) float32 logits or features; B may be 0.

        Raises:
            ValueError: pictures of another shape or type.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"pictures of {images.dtype} {tuple(images.shape)} are not uint8 (batch, channels, height, width) with "
                f"{self.image_shape}: give them as the evaluation transform makes them, not normalised"
            )
        with torch.inference_mode():
            if not len(images):  # no engine need know of it
                return self(images.new_zeros(1, *self.image_shape))[:0]
            return self._answer(images.contiguous())


class Engine(Protocol):
    """One way to run models."""

    precisions: tuple[Precision, ...]

    def missing(self) -> str | None:
        """None where it can run here; otherwise why not, and what to install."""

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        """A copy of the bundle's model, ready.

        Args:
            calibration: for int8, a few dozen to 256 of the user's own pictures, (N, C, H, W) uint8.
        Raises:
            ConfigError: what it cannot do, and what to choose instead.
        """
