"""Every kind of model under one roof: names, configs, costs. Free of torch, so that listing models is instant."""

from __future__ import annotations

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models import axial_resnet_costs, costs, resnet_costs
from vitrail.models.axial_resnet_config import (
    AXIAL_RESNETS,
    AxialResNetConfig,
    AxialResNetVariant,
    get_axial_resnet_config,
    is_axial_resnet,
)
from vitrail.models.config import ViTConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import RESNET_VARIANTS, ResNetVariant, get_resnet_config, is_resnet
from vitrail.models.resnet_variants import TIMM_NAMES as RESNET_TIMM_NAMES
from vitrail.models.timm_config import TimmConfig
from vitrail.models.variants import TIMM_NAMES, VARIANTS, Variant, get_config

ModelConfig = ViTConfig | ResNetConfig | AxialResNetConfig | TimmConfig

MODELS: dict[str, Variant | ResNetVariant | AxialResNetVariant] = {**VARIANTS, **RESNET_VARIANTS, **AXIAL_RESNETS}


def get_model_config(name: str) -> ModelConfig:
    """The config of a Vision Transformer ("ViT-B/16") or a ResNet ("BiT-R50x1", "Axial-ResNet-50-L"), or of its name in
    timm.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    if is_axial_resnet(name):
        return get_axial_resnet_config(name)
    if is_resnet(name):
        return get_resnet_config(name)
    near = did_you_mean(name, [*MODELS, *TIMM_NAMES, *RESNET_TIMM_NAMES])
    if any(near == f" Did you mean '{known}'?" for known in (*RESNET_VARIANTS, *AXIAL_RESNETS, *RESNET_TIMM_NAMES)):
        raise ConfigError(f"unknown model {name!r}.{near}")
    return get_config(name)


def require_vit(config: ModelConfig, who: str) -> ViTConfig:
    """`config`, where it is a Vision Transformer's.

    Raises:
        ConfigError: it is another's, which `who` ("the study of positions") cannot do with.
    """
    if not isinstance(config, ViTConfig):
        raise ConfigError(f"{who} needs a Vision Transformer, and the model is a {config.family}")
    return config


def count_parameters(config: ModelConfig) -> int:
    """Learned numbers of the model. Raises ConfigError for a model of timm where timm is not installed."""
    if isinstance(config, TimmConfig):
        return _timm_costs(config)[0]
    if isinstance(config, AxialResNetConfig):
        return axial_resnet_costs.count_parameters(config)
    return resnet_costs.count_parameters(config) if isinstance(config, ResNetConfig) else costs.count_parameters(config)


def count_macs(config: ModelConfig) -> int:
    """Multiply-adds of one picture's forward pass; FLOPs are about twice as many. Raises as `count_parameters`."""
    if isinstance(config, TimmConfig):
        return _timm_costs(config)[1]
    if isinstance(config, AxialResNetConfig):
        return axial_resnet_costs.count_macs(config)
    return resnet_costs.count_macs(config) if isinstance(config, ResNetConfig) else costs.count_macs(config)


def _timm_costs(config: TimmConfig) -> tuple[int, int]:
    from vitrail.models.timm_model import costs  # there is no formula: it counts on the model, with torch

    return costs(config)
