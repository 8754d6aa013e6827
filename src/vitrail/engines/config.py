"""How a model is to be run for inference; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vitrail.errors import ConfigError, did_you_mean

EngineName = Literal["torch", "openvino", "onnx"]
Precision = Literal["float32", "bfloat16", "int8"]
Answer = Literal["logits", "features"]

MAX_LOSS = 0.003  # of the accuracy on labelled pictures, as a share: 0.3 points


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
            value = getattr(self, name)
            if value not in get_args(choices):
                known = get_args(choices)
                raise ConfigError(f"{name} {value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")
        for name in ("batch_size", "pictures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} is below 1")
