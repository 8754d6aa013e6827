"""Models of timm as baselines. timm is imported when one is built and not before; nothing else needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.timm_config import TimmConfig


class TimmModel(nn.Module):
    """A model of timm with fresh weights; state-dict keys are timm's behind "net.".

    Args:
        config: which one.
        generator: draws the seed of its initial weights, which timm fills its own way; None: torch's global generator.

    Attributes:
        config: as given.
        gradient_checkpointing: always False, see `TrainConfig`.

    Raises:
        ConfigError: timm is not installed, has no such model, or cannot build it for such pictures.
    """

    def __init__(self, config: TimmConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        timm = _import_timm()
        require_timm_model(config.name)
        settings: dict[str, Any] = {"num_classes": config.num_classes, "in_chans": config.in_channels}
        if timm.get_pretrained_cfg(config.name, allow_unregistered=False).fixed_input_size:
            settings["img_size"] = config.image_size
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(), _refusals(config):
            torch.manual_seed(seed)
            self.net = timm.create_model(config.name, pretrained=False, **settings)

    def forward_features(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> the features before pooling, in timm's shape for this model."""
        return self.net.forward_features(images)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives -> logits (batch, num_classes), or with `pre_logits` what the head sees."""
        return self.net.forward_head(features, pre_logits=pre_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> logits (batch, num_classes)."""
        return self.net(images)


def require_timm_model(name: str) -> None:
    """Raises ConfigError where timm is not installed or has no model of this name; says the nearest."""
    known = _import_timm().list_models()
    if name not in known:
        raise ConfigError(f"timm has no model '{name}'.{did_you_mean(name, known)} timm.list_models() lists them.")


@lru_cache(maxsize=64)
def costs(config: TimmConfig) -> tuple[int, int]:
    """(learned numbers, multiply-adds of one picture's forward pass), counted on the model itself by torch's counter.

    Raises:
        ConfigError: as `TimmModel`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and every bundle would wait for it

    model = TimmModel(config).eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), _refusals(config):
        model(torch.empty(1, config.in_channels, *config.image_size, device="meta"))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


@contextmanager
def _refusals(config: TimmConfig) -> Iterator[None]:
    """Whatever timm raises for a model that these pictures do not suit, as one sentence."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines()
        raise ConfigError(
            f"timm's '{config.name}' does not take pictures of {config.image_size[0]} x {config.image_size[1]} pixels"
            f" ({said[0] if said else type(error).__name__}); choose another baseline"
        ) from error


def _import_timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError("models of timm need timm, which is not installed: pip install timm") from error
    return timm
