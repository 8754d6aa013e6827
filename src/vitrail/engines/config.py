"""How a model is to be run for inference; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vitrail.errors import ConfigError, did_you_mean

EngineName = Literal["torch", "openvino", "onnx"]
Precision = Literal["float32", "bfloat16", "int8"]
Answer = Literal["logits", "features"]

MAX_LOSS = 0.003  # of the accuracy on labelled pictures, as a share: 0.3 points
MAX_OFF = 0.02  # of a row's length: how far it may be from the model's own in float32


@dataclass(frozen=True)
class InferenceConfig:
    """What a model is prepared for.

    Raises:
        ConfigError: an unknown name, or a number below 1.
    """

    engine: EngineName = "torch"
    precision: Precision = "float32"
    answer: Answer = "logits"  # "features": what the head sees
    batch_size: int = 16  # the usual one: layouts and trials are made for it; every other works too
    # Whether torch compiles. None: where the pictures to come pay for the time it takes.
    compile: bool | None = None
    pictures: int | None = None  # to come; None: very many

    def __post_init__(self) -> None:
        for name, choices in (("engine", EngineName), ("precision", Precision), ("answer", Answer)):
            _require_known(name, getattr(self, name), get_args(choices))
        for name in ("batch_size", "pictures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} is below 1")


@dataclass(frozen=True)
class AnsweringConfig:
    """Who is to answer for a task's pictures: the model itself or an engine.

    Raises:
        ConfigError: an unknown name, or int8 without pictures to judge it by.
    """

    engine: EngineName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    labelled: str | None = None  # as DataConfig.source: int8 is calibrated and its accuracy measured on them
    max_loss: float = MAX_LOSS  # of that accuracy, as a share; where int8 loses more it is refused

    def __post_init__(self) -> None:
        _require_known("engine", self.engine, ("auto", *get_args(EngineName)))
        _require_known("precision", self.precision, ("auto", *get_args(Precision)))
        if self.precision == "int8" and self.labelled is None:
            raise ConfigError(
                "int8 needs labelled pictures to measure its ranges on and what it costs in accuracy: give them with"
                " --labelled DATA, a folder or a table as for `vitrail evaluate`"
            )
        if self.labelled is not None and self.precision != "int8":
            raise ConfigError("--labelled is for 8-bit integers alone: add --precision int8, or leave it out")
        require_max_loss(self.max_loss)


def _require_known(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")


def require_max_loss(share: float) -> None:
    """Raises ConfigError where it is no share of the accuracy."""
    if not 0 <= share <= 1:
        raise ConfigError(f"max_loss: {100 * share:g} points of accuracy are not between 0 and 100")
