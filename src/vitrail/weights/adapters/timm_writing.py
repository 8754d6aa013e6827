"""Models in timm's layout: nothing of the architecture is left to the name of timm's entry point."""

from __future__ import annotations

from typing import Any

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.variants import TIMM_NAMES, get_config
from vitrail.weights.adapters.base import Model, Writing
from vitrail.weights.adapters.mapping import Entry, native_shapes
from vitrail.weights.adapters.timm_architectures import hybrid_architecture
from vitrail.weights.adapters.timm_names import CARRIER, beside_fixed_table, positions_codec


def write(model: Model[ViTConfig]) -> Writing:
    """timm's layout, for `timm.create_model("local-dir:FOLDER", pretrained=True)` and the hub.

    Raises:
        WeightsError: what timm's VisionTransformer does not compute; names the field.
    """
    config, preprocessing = model.config, model.preprocessing
    _require_sayable(config)
    architecture, eps = _architecture(config)
    args = _model_args(config, architecture)
    stored_prefix = 0 if args["no_embed_class"] else config.num_prefix_tokens
    said = [Entry(name, (name,)) for name in native_shapes(config)]
    if config.position_embedding == "learned_1d":
        codec = positions_codec(config, stored_prefix)
        said = [Entry("pos_embed", ("pos_embed",), codec) if e.native == "pos_embed" else e for e in said]
    elif config.position_embedding != "none":
        said = [beside_fixed_table(e, "pos_embed", config, stored_prefix) if e.native == CARRIER else e for e in said]
    pretrained = {
        **pretrained_cfg(config, preprocessing),
        "fixed_input_size": True,
        "first_conv": _first_conv(config),
        "classifier": ["head", "head_dist"] if config.distillation_token else "head",
    }
    hub = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.width,
        "global_pool": args["global_pool"],
        **({"label_names": list(model.labels)} if model.labels else {}),
        "model_args": args,
        "pretrained_cfg": pretrained,
    }
    assumed: dict[str, Any] = {} if eps == config.layer_norm_eps else {"layer_norm_eps": eps}
    if config.stem == "resnet" and config.stem_numerics != "timm":
        assumed["stem_numerics"] = "timm"
    return Writing(
        "model.safetensors",
        said,
        {"config.json": hub},
        assumed,
        'timm.create_model("local-dir:{folder}", pretrained=True)',
    )


def pretrained_cfg(config: ModelConfig, preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm's pretrained_cfg says of the pictures, without the names of layers."""
    return {
        "num_classes": config.num_classes,
        "input_size": [config.in_channels, *config.image_size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_fraction if preprocessing.resize == "crop" else 1.0,
        "crop_mode": "center" if preprocessing.resize == "crop" else "squash",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _first_conv(config: ViTConfig) -> str:
    if config.stem == "resnet":
        return f"patch_embed.backbone.{'stem.' if config.stem_blocks else ''}conv"
    return "patch_embed.proj"


def _require_sayable(config: ViTConfig) -> None:
    needed: dict[str, tuple[object, ...]] = {
        "attention": ("global",),
        "position_placement": ("input",),
        "pre_logits_size": (None,),
        "block_style": ("pre_norm",),
        "patch_norm": (False,),
        "stem": ("patch", "resnet"),
        "pooling": ("token", "gap", "avg", "map"),
        "attention_head_dim": (config.width // config.num_heads,),
    }
    for name, values in needed.items():
        if getattr(config, name) not in values:
            raise WeightsError(f"timm has no {name} {getattr(config, name)!r}: it cannot be written in its layout")
    if config.stem == "resnet":
        _require_hybrid(config)
    if config.patch_bias == config.input_norm:
        raise WeightsError(
            "timm has a bias of the patch projection where there is no norm before the blocks, and only there:"
            f" patch_bias {config.patch_bias} with input_norm {config.input_norm} cannot be written in its layout"
        )
    if config.position_embedding in ("learned_2d", "relative"):
        raise WeightsError(f"timm has no position_embedding {config.position_embedding!r}")
    if config.pooling == "map" and config.activation == "swiglu":
        raise WeightsError("timm has no gated MLP in attention pooling: pooling 'map' with activation 'swiglu'")
    if config.distillation_token:
        for name, fits in (
            ("num_register_tokens", config.num_register_tokens == 0),
            ("position_embedding", config.position_embedding != "none"),
            ("activation", config.activation != "swiglu"),
        ):
            if not fits:
                raise WeightsError(f"timm's distilled models have no {name} {getattr(config, name)!r}")


def _require_hybrid(config: ViTConfig) -> None:
    if hybrid_architecture(config) is None:
        raise WeightsError(
            f"timm has no hybrid whose stem has stem_widths {config.stem_widths} and stem_blocks {config.stem_blocks}:"
            " it cannot be written in its layout"
        )
    for name, value in (("distillation_token", False), ("input_norm", False)):
        if getattr(config, name) != value:
            raise WeightsError(f"timm's hybrids, of stem 'resnet', have no {name} {getattr(config, name)!r}")
    if config.activation == "swiglu":
        raise WeightsError("timm's hybrids, of stem 'resnet', have no activation 'swiglu'")


def _architecture(config: ViTConfig) -> tuple[str, float]:
    """timm's nearest entry point, whose arguments are all overridden, and the epsilon that only it decides."""
    hybrid = hybrid_architecture(config) if config.stem == "resnet" else None
    if hybrid is not None:
        return hybrid, 1e-6
    if config.distillation_token:
        return "deit_base_distilled_patch16_224", 1e-6
    if config.activation == "swiglu":
        return "vit_giant_patch14_dinov2", 1e-6  # the only way to its gated MLP
    if config.layer_norm_eps == 1e-5:
        return "vit_base_patch16_clip_224", 1e-5  # the only way to this epsilon
    sizes = ("width", "depth", "num_heads", "mlp_size", "patch_size", "stem")
    fitting = [
        name for name in TIMM_NAMES if all(getattr(get_config(name), size) == getattr(config, size) for size in sizes)
    ]
    same_size = [name for name in fitting if get_config(name).image_size == config.image_size]
    return next(iter([*same_size, *fitting, "vit_base_patch16_224"])), 1e-6


def _model_args(config: ViTConfig, architecture: str) -> dict[str, Any]:
    """Every argument of timm's model, so that nothing is left to the entry point."""
    hidden = 2 * config.mlp_size if config.activation == "swiglu" else config.mlp_size
    ratio = hidden / config.width
    if int(config.width * ratio) != hidden:
        ratio = (hidden + 0.5) / config.width  # timm cuts the product off, so it must not fall below
    has_rows = config.position_embedding == "learned_1d" and config.num_position_prefix > 0
    args = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_kernel_size,  # of a hybrid in cells of its ResNet's result
        "in_chans": config.in_channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": ratio,
        "qkv_bias": config.qkv_bias,
        "pre_norm": config.input_norm,
        "init_values": 0.0 if config.layer_scale_init is None else config.layer_scale_init or 1e-5,
        "class_token": config.class_token,
        "reg_tokens": config.num_register_tokens,
        "pos_embed": "none" if config.position_embedding == "none" else "learn",
        "no_embed_class": not (has_rows or config.distillation_token),
        "global_pool": "avg" if config.pooling == "gap" else config.pooling,
        "fc_norm": config.pooling == "avg",
        "pool_include_prefix": config.pool_prefix,
    }
    if config.activation != "swiglu":
        args["act_layer"] = config.activation
    return args
