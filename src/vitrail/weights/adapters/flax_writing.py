"""What Google's Flax code can be told of a model, what it assumes, and how its files are loaded."""

from __future__ import annotations

from typing import Any

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import get_config
from vitrail.weights.adapters.timm_architectures import hybrid_architecture

_VIT_JAX = 'vit_jax.checkpoint.load("{file}")'
# Field -> the values that the Flax models have. Others would be computed as if they were these.
_SAYABLE: dict[str, tuple[Any, ...]] = {
    "attention": ("global",),
    "num_register_tokens": (0,),
    "distillation_token": (False,),
    "layer_scale_init": (None,),
    "qkv_bias": (True,),
    "patch_norm": (False,),
    "patch_bias": (True,),
    "input_norm": (False,),
    "pool_prefix": (False,),
    "pooling": ("token", "gap", "map"),
    "position_placement": ("input",),
    "block_style": ("pre_norm",),
    "activation": ("gelu_tanh", "gelu"),
}


def require_sayable(
    config: ViTConfig, code: str, *, position_embedding: tuple[str, ...], stems: tuple[str, ...] = ("patch",)
) -> None:
    """Raises WeightsError, naming the field, for an architecture that Google's code does not have."""
    for field, values in {**_SAYABLE, "stem": stems, "position_embedding": position_embedding}.items():
        value = getattr(config, field)
        if value not in values:
            known = " or ".join(map(repr, values))
            raise WeightsError(f"{field} {value!r} cannot be said in the npz layout: {code} has {known} only")
    if config.num_heads * config.attention_head_dim != config.width:
        raise WeightsError(
            f"head_dim {config.head_dim} cannot be said in the npz layout: {code} divides the width {config.width} by"
            f" num_heads {config.num_heads}"
        )


def assumed_by_flax(config: ViTConfig) -> dict[str, Any]:
    """What the layout does not carry and the code takes instead, where it differs from the model's."""
    taken = {"activation": "gelu_tanh", "layer_norm_eps": 1e-6, "stem_numerics": "google"}
    return {field: value for field, value in taken.items() if getattr(config, field) != value}


def timm_line(config: ViTConfig) -> str:
    """The line with which timm builds the model and reads the file; it tells the two layouts apart by itself.

    For a hybrid whose ResNet timm has no name for it is vision_transformer's own.
    """
    architecture: str | None = "vit_base_patch16_224"
    if config.stem == "resnet":
        architecture = hybrid_architecture(config)
    if architecture is None:
        return _VIT_JAX
    ratio = config.mlp_size / config.width
    if int(config.width * ratio) != config.mlp_size:
        ratio = (config.mlp_size + 0.5) / config.width  # timm rounds down
    plain = get_config(architecture)
    usual = {
        "img_size": (plain.image_size, config.image_size),
        "patch_size": (plain.patch_kernel_size, config.patch_kernel_size),
        "in_chans": (3, config.in_channels),
        "embed_dim": (plain.width, config.width),
        "depth": (plain.depth, config.depth),
        "num_heads": (plain.num_heads, config.num_heads),
        "mlp_ratio": (4.0, ratio),
        "num_classes": (1000, config.num_classes),
        "class_token": (True, config.class_token),
        "no_embed_class": (False, config.class_token and not config.position_for_prefix),
        "global_pool": ("token", {"gap": "avg"}.get(config.pooling, config.pooling)),
        "fc_norm": (None, False if config.pooling == "gap" else None),
    }
    given = [f"{name}={value!r}, " for name, (default, value) in usual.items() if value != default]
    return f'timm.create_model("{architecture}", {"".join(given)}act_layer="gelu_tanh", checkpoint_path="{{file}}")'
