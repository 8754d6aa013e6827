"""Small models with every option, and pictures for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.models.build import Model, build_model
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle, BundleConfig

VIT = ViTConfig(image_size=(16, 24), patch_size=4, num_classes=7, width=32, depth=2, num_heads=2, mlp_size=48)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_classes": 0},
    {"pooling": "gap", "num_register_tokens": 2},
    {"pooling": "gap", "pool_prefix": True},
    {"pooling": "avg", "layer_scale_init": 0.1},
    {"pooling": "map", "class_token": False},
    {"pooling": "token_and_gap"},
    {"distillation_token": True, "num_register_tokens": 1},
    {"position_embedding": "relative"},
    {"position_embedding": "relative", "pooling": "gap", "block_style": "post_norm"},
    {"position_embedding": "learned_2d", "position_placement": "every_layer", "distillation_token": True},
    {"position_embedding": "sincos_2d_mae", "position_placement": "every_layer_shared"},
    {"position_embedding": "none", "position_for_prefix": False, "depth": 1},
    {"activation": "swiglu", "qkv_bias": False, "patch_bias": False, "input_norm": True},
    {"activation": "quick_gelu", "pre_logits_size": 9},
    {"activation": "gelu_tanh", "patch_norm": True},
    {"activation": "relu", "block_style": "post_norm", "layer_scale_init": 0.3},
    {"stem": "conv", "stem_widths": (6, 8), "stem_blocks": (0, 1)},
    {"stem": "resnet", "stem_widths": (32,), "head_dim": 5},
    {"stem": "resnet", "stem_widths": (32,), "stem_blocks": (1,), "stem_numerics": "timm"},
    {"image_size": (12, 20), "patch_size": 4, "in_channels": 1, "width": 24, "num_heads": 3},
]
AXIAL = {"attention": "axial", "class_token": False, "pooling": "gap"}
RESNET = ResNetConfig(image_size=(32, 32), num_classes=5, depths=(1, 1))


def preprocessing_of(config: ModelConfig) -> Preprocessing:
    """Uneven in every channel, so that a mistaken one shows."""
    mean, std = ((0.45,), (0.25,)) if config.in_channels == 1 else ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return Preprocessing(image_size=config.image_size, mean=mean, std=std)


def bundle_of(config: ModelConfig, seed: int = 0) -> Bundle:
    """Every parameter moved from where it starts: zeros and ones hide what is left out."""
    model: Model = build_model(config, generator=torch.Generator().manual_seed(seed)).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    labels = tuple(f"class {index}" for index in range(config.num_classes))
    return Bundle(model, BundleConfig(config, labels, preprocessing_of(config)), Path("made-up"))


def vit_bundle(**changes: Any) -> Bundle:
    bundle = bundle_of(replace(VIT, **changes))
    assert isinstance(bundle.model, VisionTransformer)
    return bundle


def pictures(bundle: Bundle, count: int, seed: int = 0) -> Tensor:
    """(count, C, H, W) uint8."""
    preprocessing = bundle.config.preprocessing
    shape = (count, preprocessing.num_channels, *preprocessing.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
