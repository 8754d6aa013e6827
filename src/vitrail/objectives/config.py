"""Settings of the objectives; frozen dataclasses, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.errors import ConfigError

# What of a patch is predicted (Dosovitskiy et al. 2021, appendix B.1.2): its mean colour in 3 bits a channel, a 4x4
# version of it in such colours, or all its pixels (L2).
PatchTarget = Literal["mean_color", "downsampled", "pixels"]


@dataclass(frozen=True)
class SupervisedConfig:
    """Classification by labels (Dosovitskiy et al. 2021, section 3.2 and appendix B.1)."""

    kind: Literal["supervised"] = "supervised"  # the name in OBJECTIVES
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


@dataclass(frozen=True)
class MaskedPatchesConfig:
    """Prediction of corrupted patches (Dosovitskiy et al. 2021, appendix B.1.2). Needs no labels."""

    kind: Literal["masked_patches"] = "masked_patches"
    target: PatchTarget = "mean_color"
    corrupted_share: float = 0.5  # of the patch embeddings; the paper tried BERT's 0.15 as well, slightly worse
    mask_rate: float = 0.8  # of the corrupted ones: become the learned [mask] embedding
    replace_rate: float = 0.1  # of the corrupted ones: become another patch's embedding; what remains is kept

    def __post_init__(self) -> None:
        if not 0.0 < self.corrupted_share <= 1.0:
            raise ConfigError(f"corrupted_share {self.corrupted_share} is not in (0, 1]")
        rates = (self.mask_rate, self.replace_rate)
        if min(rates) < 0 or sum(rates) > 1 + 1e-9:
            raise ConfigError(f"mask_rate {rates[0]} and replace_rate {rates[1]} are no shares of one whole")


@dataclass(frozen=True)
class NextPatchConfig:
    """Prediction of the next patch in raster order (Chen et al. 2020, "Generative pretraining from pixels")."""

    kind: Literal["next_patch"] = "next_patch"
    target: PatchTarget = "mean_color"


ObjectiveConfig = SupervisedConfig | MaskedPatchesConfig | NextPatchConfig
