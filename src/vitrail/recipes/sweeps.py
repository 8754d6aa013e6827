"""The learning rates that the paper tried when it fine-tuned, and the pictures it held out to choose among them."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class SweepConfig:
    """A run for each learning rate on all but a share of the training pictures, then one with the best on all of them
    (Dosovitskiy et al. 2021, appendix B.1.1)."""

    learning_rates: tuple[float, ...]
    held_out_share: float  # of the training pictures of each class; unused where the data has validation pictures

    def __post_init__(self) -> None:
        rates = self.learning_rates
        if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ConfigError(f"learning rates to try {list(rates)}: name one or more, above 0, each once")
        if not 0 < self.held_out_share <= 0.5:
            raise ConfigError(f"held-out share {self.held_out_share} is not above 0 and at most 0.5")


_RATES = (0.001, 0.003, 0.01, 0.03)
_IMAGENET = SweepConfig((0.003, 0.01, 0.03, 0.06), 0.01)

# Table 4 of the paper, and the shares of its appendix B.1.1.
SWEEPS: dict[str, SweepConfig] = {
    "finetune_imagenet": _IMAGENET,
    "finetune_imagenet_large": _IMAGENET,
    "finetune_cifar": SweepConfig(_RATES, 0.02),
    "finetune_small": SweepConfig(_RATES, 0.10),
}
DEFAULT_SHARE = 0.10  # where the recipe has none of its own


def get_sweep(
    recipe: str, learning_rates: tuple[float, ...] = (), held_out_share: float | None = None, factor: float = 1.0
) -> SweepConfig:
    """The sweep of a recipe, with what the user says in its place.

    Args:
        factor: on the recipe's own rates, for a recipe that was shrunk.
    Raises:
        ConfigError: neither the recipe nor the user names rates.
    """
    own = SWEEPS.get(recipe, SweepConfig(learning_rates, DEFAULT_SHARE) if learning_rates else None)
    if own is None:
        raise ConfigError(
            f"the recipe '{recipe}' has no learning rates to try: name some with --rates 0.0003 0.001 0.003."
            f" Recipes that have: {', '.join(SWEEPS)}"
        )
    return SweepConfig(
        learning_rates or tuple(float(f"{rate * factor:.3g}") for rate in own.learning_rates),
        own.held_out_share if held_out_share is None else held_out_share,
    )
