"""Settings of the objectives; frozen dataclasses, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class SupervisedConfig:
    """Classification by labels (Dosovitskiy et al. 2021, section 3.2 and appendix B.1)."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    balance: bool = False  # weigh classes by inverse frequency, so that small classes count as much as large ones
    # Adds prior_strength * log(share of the class in the training pictures) to the logits in the loss alone, so that
    # the model answers as if all classes were equally frequent (Menon et al. 2021, "Long-tail learning via logit
    # adjustment"). 0: off, 1: wholly.
    prior_strength: float = 0.0

    def __post_init__(self) -> None:
        if self.prior_strength < 0:
            raise ConfigError(f"prior_strength {self.prior_strength} is negative")
        if self.prior_strength and self.loss != "softmax":
            raise ConfigError(f"prior_strength {self.prior_strength} needs the softmax loss, not '{self.loss}'")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing {self.label_smoothing} is not in [0, 1)")
