"""torchvision's VisionTransformer: vit_b_16, vit_l_16, vit_h_14 and their SWAG weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import SIZES
from vitrail.weights.adapters.base import FAMILY_RULE, Adapter, Description, Model, Writing
from vitrail.weights.adapters.evaluation_rules import IMAGENET_MEAN, IMAGENET_STD, crop_fraction
from vitrail.weights.adapters.layer_entries import linear, position_codec
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.shape_rules import CALLER, SHAPES, read_labels, read_num_heads
from vitrail.weights.checkpoint import Checkpoint

LAYER_NORM_EPS = 1e-6
_TABLE = "encoder.pos_embedding"
_LAYER = "encoder.layers.encoder_layer_{}."
_MLP, _OLD_MLP = ("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2")  # torchvision 0.13 renamed them
# What torchvision's training reference keeps beside the model.
_UNUSED = {
    "optimizer/": "the optimizer's state",
    "lr_scheduler/": "the schedule's state",
    "scaler/": "the gradient scaler's state",
    "model_ema/": "the running average of the weights",
}
# Field -> its only value in torchvision's code.
_ONLY = {
    "attention": "global",
    "class_token": True,
    "pooling": "token",
    "position_embedding": "learned_1d",
    "position_placement": "input",
    "distillation_token": False,
    "num_register_tokens": 0,
    "layer_scale_init": None,
    "block_style": "pre_norm",
    "qkv_bias": True,
    "patch_norm": False,
    "patch_bias": True,
    "input_norm": False,
    "stem": "patch",
    "in_channels": 3,
}


def _prefix(checkpoint: Checkpoint) -> str | None:
    """What stands before every name: "" in released weights, "model/" in a training checkpoint."""
    for prefix in ("", "model/", "module.", "model/module."):
        if f"{prefix}{_TABLE}" in checkpoint.tensors and f"{prefix}class_token" in checkpoint.tensors:
            return prefix
    return None


def recognise(checkpoint: Checkpoint) -> str | None:
    prefix = _prefix(checkpoint)
    name = f"{prefix}{_LAYER.format(0)}self_attention.in_proj_weight"
    return f"it has '{name}'" if name in checkpoint.tensors else None


def _shape(checkpoint: Checkpoint, name: str, rank: int) -> tuple[int, ...]:
    shape = checkpoint.shape(name)
    if shape is None or len(shape) != rank:
        raise WeightsError(f"{checkpoint.where}: '{name}' is {shape or 'missing'}; it must have {rank} dimensions")
    return shape


def describe(checkpoint: Checkpoint) -> Description:
    prefix = _prefix(checkpoint) or ""
    stem = next((name for name in checkpoint.tensors if name.startswith(f"{prefix}conv_proj.conv_bn_relu")), None)
    if stem is not None:
        raise WeightsError(
            f"{checkpoint.where}: '{stem}' is of a convolutional stem with batch norms, which is not read"
        )
    width, in_channels, patch_size, _ = _shape(checkpoint, f"{prefix}conv_proj.weight", 4)
    depth = checkpoint.count(f"{prefix}{_LAYER}self_attention.in_proj_weight")
    mlp_size = _shape(checkpoint, f"{prefix}{_LAYER.format(0)}{_mlp_names(checkpoint, prefix)[0]}.weight", 2)[0]
    num_heads, heads_source = read_num_heads(checkpoint, width, depth, mlp_size)
    image_size, image_source = _image_size(checkpoint, prefix, patch_size)
    head, hidden = (checkpoint.shape(f"{prefix}heads.{name}.weight") for name in ("head", "pre_logits"))
    try:
        config = ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_classes=head[0] if head else 0,
            width=width,
            depth=depth,
            num_heads=num_heads,
            mlp_size=mlp_size,
            pre_logits_size=hidden[0] if hidden else None,
            layer_norm_eps=LAYER_NORM_EPS,
        )
    except ConfigError as error:
        raise WeightsError(f"{checkpoint.where}: no model can be of its tensors ({error})") from error
    labels, label_source = read_labels(checkpoint, config.num_classes)
    sources = {
        "num_heads": heads_source,
        "head_dim": heads_source,
        "image_size": image_source,
        "labels": label_source,
        "pre_logits_size": SHAPES,
        "position_embedding": SHAPES,
    }
    preprocessing, notes = _preprocessing(config)
    return Description(
        config, preprocessing, labels, sources, FAMILY_RULE, notes=notes, resampling="bicubic_align_corners"
    )


def _mlp_names(checkpoint: Checkpoint, prefix: str) -> tuple[str, str]:
    is_old = f"{prefix}{_LAYER.format(0)}{_OLD_MLP[0]}.weight" in checkpoint.tensors
    return _OLD_MLP if is_old else _MLP


def _image_size(checkpoint: Checkpoint, prefix: str, patch_size: int) -> tuple[tuple[int, int], str]:
    rows = _shape(checkpoint, f"{prefix}{_TABLE}", 3)[1]
    side = math.isqrt(max(0, rows - 1))
    size, source = (side * patch_size, side * patch_size), SHAPES
    if checkpoint.choices.image_size is not None:
        size, source = checkpoint.choices.image_size, CALLER
    if min(size) < 1 or 1 + (size[0] // patch_size) * (size[1] // patch_size) != rows:
        raise WeightsError(
            f"{checkpoint.where}: '{prefix}{_TABLE}' has {rows} rows, which is not 1 and those of {size[0]}x{size[1]}"
            f" pixels in patches of {patch_size}; give the right --image-size HEIGHT WIDTH"
        )
    return size, source


def _preprocessing(config: ViTConfig) -> tuple[Preprocessing, tuple[str, ...]]:
    """ImageNet's statistics; 256 bilinear then 224 (ViT-L/16: 242), but SWAG's weights, which have larger pictures or
    are ViT-H, bicubic and without a margin."""
    side, notes = config.image_size[0], []
    is_swag = side >= 384 or config.width == SIZES["H"].width
    is_large = (config.width, config.patch_size) == (SIZES["L"].width, 16)
    resized = side if is_swag else round(side * (242 if is_large else 256) / 224)
    if side == 224 and not is_swag:
        notes.append("read as torchvision's own weights; the linear SWAG ones of this size want bicubic 224 x 224")
    if config.in_channels != 3:
        notes.append(f"torchvision's weights take 3 channels, these {config.in_channels}: mean and std 0.5 are a guess")
    half: tuple[float, ...] = (0.5,) * config.in_channels
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config.in_channels == 3 else (half, half)
    return Preprocessing(
        image_size=config.image_size,
        resize="crop",
        crop_fraction=crop_fraction(side, resized),
        interpolation="bicubic" if is_swag else "bilinear",
        mean=mean,
        std=std,
    ), tuple(notes)


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    prefix = _prefix(checkpoint) or ""
    return _entries(config, prefix, _mlp_names(checkpoint, prefix))


def _entries(config: ViTConfig, prefix: str, mlp: tuple[str, str]) -> list[Entry]:
    found = [
        Entry("cls_token", (f"{prefix}class_token",)),
        Entry("pos_embed", (f"{prefix}{_TABLE}",), position_codec(config.num_position_prefix, 1)),
        *linear("patch_embed.proj", f"{prefix}conv_proj"),
    ]
    for index in range(config.depth):
        block, layer = f"blocks.{index}.", f"{prefix}{_LAYER.format(index)}"
        found += [
            *linear(f"{block}norm1", f"{layer}ln_1"),
            *(
                Entry(f"{block}attn.qkv.{kind}", (f"{layer}self_attention.in_proj_{kind}",))
                for kind in ("weight", "bias")
            ),
            *linear(f"{block}attn.proj", f"{layer}self_attention.out_proj"),
            *linear(f"{block}norm2", f"{layer}ln_2"),
            *linear(f"{block}mlp.fc1", f"{layer}{mlp[0]}"),
            *linear(f"{block}mlp.fc2", f"{layer}{mlp[1]}"),
        ]
    found += linear("norm", f"{prefix}encoder.ln")
    if config.pre_logits_size is not None:
        found += linear("pre_logits.fc", f"{prefix}heads.pre_logits")
    return found + (linear("head", f"{prefix}heads.head") if config.num_classes else [])


def unused(name: str) -> str | None:
    return next((reason for start, reason in _UNUSED.items() if re.match(start, name)), None)


def write(model: Model[ViTConfig]) -> Writing:
    """Under the names of torchvision since 0.13.

    Raises:
        WeightsError: an architecture that torchvision's code cannot say; names the field.
    """
    config = model.config
    _require_sayable(config)
    assumed: dict[str, object] = {}
    if config.layer_norm_eps != LAYER_NORM_EPS:
        assumed["layer_norm_eps"] = LAYER_NORM_EPS
    if config.activation != "gelu":
        assumed["activation"] = "gelu"
    sizes = {
        "image_size": config.image_size[0],
        "patch_size": config.patch_size,
        "num_layers": config.depth,
        "num_heads": config.num_heads,
        "hidden_dim": config.width,
        "mlp_dim": config.mlp_size,
        "num_classes": config.num_classes,
        "representation_size": config.pre_logits_size,
    }
    arguments = ", ".join(f"{name}={value}" for name, value in sizes.items() if value is not None)
    return Writing(
        weights_file="model.safetensors",
        entries=_entries(config, "", _MLP),
        assumed=assumed,
        how_to_load=f"model = torchvision.models.VisionTransformer({arguments});"
        " model.load_state_dict(safetensors.torch.load_file('{file}'))",
    )


def _require_sayable(config: ViTConfig) -> None:
    for name, sayable in _ONLY.items():
        value = getattr(config, name)
        if value != sayable:
            raise WeightsError(
                f"{name} {value!r}: torchvision's VisionTransformer knows {sayable!r} only. Write timm's layout or a"
                " bundle of vitrail"
            )
    if config.activation not in ("gelu", "gelu_tanh"):
        raise WeightsError(f"activation {config.activation!r}: torchvision's VisionTransformer computes GELU only")
    if config.image_size[0] != config.image_size[1]:
        raise WeightsError(f"image_size {config.image_size}: torchvision's VisionTransformer takes squares only")
    if config.attention_head_dim * config.num_heads != config.width:
        raise WeightsError(
            f"head_dim {config.attention_head_dim} of {config.num_heads} heads for width {config.width}: torchvision's"
            " VisionTransformer divides the width by the heads"
        )
    if not config.num_classes:
        raise WeightsError("num_classes 0: torchvision's VisionTransformer always has a head")


ADAPTER = Adapter(
    name="torchvision",
    title="torchvision",
    typical=(
        "class_token",
        "conv_proj.weight",
        _TABLE,
        f"{_LAYER}self_attention.in_proj_weight",
        f"{_LAYER}ln_1.weight",
        "heads.head.weight",
    ),
    recognise=recognise,
    describe=describe,
    entries=entries,
    unused=unused,
)
