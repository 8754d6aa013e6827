"""From a config to its model, of whichever kind it is."""

from __future__ import annotations

import torch

from vitrail.models.axial_resnet import AxialResNet
from vitrail.models.axial_resnet_config import AxialResNetConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.models.timm_model import TimmModel
from vitrail.models.vit import VisionTransformer

Model = VisionTransformer | ResNet | TimmModel


def build_model(config: ModelConfig, *, generator: torch.Generator | None = None, initialize: bool = True) -> Model:
    """A model of `config`; the arguments as in `VisionTransformer` and `ResNet`. timm always fills its models."""
    if isinstance(config, TimmConfig):
        return TimmModel(config, generator=generator)
    if isinstance(config, AxialResNetConfig):
        return AxialResNet(config, generator=generator, initialize=initialize)
    if isinstance(config, ResNetConfig):
        return ResNet(config, generator=generator, initialize=initialize)
    return VisionTransformer(config, generator=generator, initialize=initialize)
