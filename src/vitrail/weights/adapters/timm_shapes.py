"""What the shapes of a state dict under timm's names tell of its model, and what must be stated beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vitrail.data.config import Interpolation, Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.layers.position_embed import ResampleMethod, SincosVersion, sincos_2d
from vitrail.models.config import Activation, ViTConfig
from vitrail.weights.adapters.base import FAMILY_RULE, Description
from vitrail.weights.adapters.shape_rules import read_labels, read_num_heads
from vitrail.weights.adapters.timm_names import KERNEL, Tree, tree_prefixes
from vitrail.weights.adapters.timm_resnet import read_stem
from vitrail.weights.checkpoint import Checkpoint, count_numbered

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TABLE_TOLERANCE = 1e-3  # the versions differ by 0.05 and more; float32 and float16 tables of one by far less


@dataclass(frozen=True)
class Stated:
    """What shapes cannot tell, as a family or a config.json has it. `sources` says by field where it was taken from.

    `image_size` and `layer_scale_init` are used where the shapes allow for them, `pooling` None where keys tell it.
    """

    num_heads: int | None = None
    activation: Activation = "gelu"
    layer_norm_eps: float = 1e-6
    pooling: Literal["token", "avg", "map"] | None = None
    pool_prefix: bool = False
    image_size: tuple[int, int] | None = None
    layer_scale_init: float = 1e-5
    # Which of the prefix tokens may have rows in the position table, likelier first.
    table_prefixes: tuple[Literal["own", "all", "none"], ...] = ("own", "none")
    sources: Mapping[str, str] = field(default_factory=dict)


def read_config(tree: Tree, stated: Stated) -> tuple[ViTConfig, dict[str, str], tuple[str, ...]]:
    """The architecture, where its fields were taken from, and notes.

    Raises:
        WeightsError: tensors missing that the architecture is read from, or contradictions.
    """
    out, in_channels, *kernel = _shape_of(tree, KERNEL, 4)
    if kernel[0] != kernel[1]:
        raise WeightsError(f"{tree.where}: '{KERNEL}' has patches of {kernel[0]}x{kernel[1]}; vitrail has square ones")
    stem, patch_size = read_stem(tree, kernel[0])
    in_channels = stem.pop("in_channels", in_channels)
    depth = count_numbered(tree.names, "blocks.{}.norm1.weight")
    if depth == 0:
        raise WeightsError(f"{tree.where}: 'blocks.0.norm1.weight' is missing")
    hidden, _ = _shape_of(tree, "blocks.0.mlp.fc1.weight", 2)
    _, mlp_size = _shape_of(tree, "blocks.0.mlp.fc2.weight", 2)
    known = None if stated.num_heads is None else (stated.num_heads, stated.sources.get("num_heads", FAMILY_RULE))
    # Models up to ViT-L; larger ones have heads of 80 and more.
    heads, heads_source = read_num_heads(tree.checkpoint, out, depth, mlp_size, known, heads_of_64=out <= 1024)
    pooling, notes = _pooling(tree, stated)
    tokens, own = _prefix_tokens(tree)
    image_size, table_prefix, image_source = _table(tree, stated, patch_size, own, sum(tokens.values()))
    head = tree.shape("head.weight")
    pre_logits = tree.shape("pre_logits.fc.weight")
    try:
        config = ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_classes=0 if head is None else head[0],
            width=out,
            depth=depth,
            num_heads=heads,
            mlp_size=mlp_size,
            pooling=pooling,  # type: ignore[arg-type]
            pool_prefix=stated.pool_prefix and pooling in ("gap", "avg"),
            **tokens,
            position_embedding="learned_1d" if "pos_embed" in tree.names else "none",
            position_for_prefix=table_prefix > 0 or own == 0,
            pre_logits_size=None if pre_logits is None else pre_logits[0],
            activation="swiglu" if hidden == 2 * mlp_size else stated.activation,
            qkv_bias="blocks.0.attn.qkv.bias" in tree.names,
            patch_bias="patch_embed.proj.bias" in tree.names,
            input_norm="norm_pre.weight" in tree.names,
            layer_norm_eps=stated.layer_norm_eps,
            layer_scale_init=stated.layer_scale_init if "blocks.0.ls1.gamma" in tree.names else None,
            **stem,
        )
    except ConfigError as error:
        raise WeightsError(f"{tree.where}: {error}") from error
    if table_prefix > config.num_position_prefix:
        notes += ("the position rows of the register tokens are added to the tokens themselves",)
    sources = {**_shape_sources(), **stated.sources, "num_heads": heads_source, "image_size": image_source}
    if config.activation == "swiglu":
        sources["activation"] = "the shape of blocks.0.mlp.fc1.weight"
    return config, sources, (*tree.notes, *notes)


def _prefix_tokens(tree: Tree) -> tuple[dict[str, Any], int]:
    """Fields of the tokens before the patches, and how many of these are no registers."""
    class_token, distillation_token = (tree.shape(name) is not None for name in ("cls_token", "dist_token"))
    registers = tree.shape("reg_token")
    fields = {
        "class_token": class_token,
        "distillation_token": distillation_token,
        "num_register_tokens": 0 if registers is None else _shape_of(tree, "reg_token", 3)[1],
    }
    return fields, class_token + distillation_token


def _shape_sources() -> dict[str, str]:
    by_keys = ("pooling", "class_token", "position_embedding", "position_for_prefix", "qkv_bias", "pre_logits_size")
    of_clip = ("patch_bias", "input_norm")
    return dict.fromkeys((*by_keys, *of_clip, "head_dim", "pool_prefix"), "the names and shapes of the tensors")


def _shape_of(tree: Tree, name: str, rank: int) -> tuple[int, ...]:
    shape = tree.shape(name)
    if shape is None:
        raise WeightsError(f"{tree.where}: '{tree.prefix}{name}' is missing")
    if len(shape) != rank:
        raise WeightsError(f"{tree.where}: '{tree.prefix}{name}' has shape {shape}, not {rank} dimensions")
    return shape


def _pooling(tree: Tree, stated: Stated) -> tuple[str, tuple[str, ...]]:
    """By the norm's place: "norm" stands before pooling, "fc_norm" after it."""
    before, after = "norm.weight" in tree.names, "fc_norm.weight" in tree.names
    if before == after:
        found = "both 'norm.weight' and 'fc_norm.weight'" if before else "neither 'norm.weight' nor 'fc_norm.weight'"
        raise WeightsError(f"{tree.where}: it has {found}; vitrail's models have one final norm")
    if ("norm.bias" if before else "fc_norm.bias") not in tree.names:
        raise WeightsError(f"{tree.where}: its norms have no bias (RMSNorm), which vitrail does not compute")
    head, width = tree.shape("head.weight"), tree.shape("norm.weight")
    if before and head is not None and width is not None and head[-1] == 2 * width[0]:
        return "token_and_gap", ()
    has_map, has_token = "attn_pool.latent" in tree.names, "cls_token" in tree.names
    told = "map" if has_map else "avg" if after or not has_token else "token"
    wanted = stated.pooling or told
    if wanted == "map" and (after or not has_map):
        raise WeightsError(f"{tree.where}: attention pooling (map) needs 'attn_pool.latent' and 'norm.weight'")
    if wanted == "token" and not has_token:
        raise WeightsError(f"{tree.where}: it is said to read the class token, and there is no 'cls_token'")
    if wanted == "avg":
        return ("avg" if after else "gap"), ()
    notes = ("its norm after pooling is taken before it: for a single token that is the same",) if after else ()
    return wanted, notes


def _table(tree: Tree, stated: Stated, patch: int, own: int, every: int) -> tuple[tuple[int, int], int, str]:
    """The picture size and how many rows of the position table belong to prefix tokens, with the size's source."""
    chosen = tree.checkpoint.choices.image_size
    sizes = [(chosen, "the caller")] if chosen else [(stated.image_size, stated.sources.get("image_size", ""))]
    shape = tree.shape("pos_embed")
    if shape is None:
        size, source = sizes[0]
        if size is None:
            raise WeightsError(f"{tree.where}: without positions nothing tells its picture size: give --image-size H W")
        return _multiple(tree, size, patch), 0, source
    rows = shape[-2]
    prefixes = list(dict.fromkeys({"own": own, "all": every, "none": 0}[kind] for kind in stated.table_prefixes))
    for size, source in sizes:
        for prefix in prefixes if size is not None else ():
            if size is not None and (size[0] // patch) * (size[1] // patch) == rows - prefix:
                return _multiple(tree, size, patch), prefix, source
    if chosen is None:
        for prefix in prefixes:
            side = math.isqrt(max(0, rows - prefix))
            if side > 0 and side * side == rows - prefix:
                return (side * patch, side * patch), prefix, "the shape of pos_embed"
    said = f" and --image-size {chosen[0]} {chosen[1]} does not give them with patches of {patch}" if chosen else ""
    raise WeightsError(
        f"{tree.where}: 'pos_embed' has {rows} rows for a grid of patches and {own} class or distillation tokens,"
        f" which is no square{said}: give --image-size H W"
    )


def _multiple(tree: Tree, size: tuple[int, int], patch: int) -> tuple[int, int]:
    if size[0] % patch or size[1] % patch:
        fitting = f"{size[0] // patch * patch} {size[1] // patch * patch}"
        raise WeightsError(
            f"{tree.where}: pictures of {size[0]}x{size[1]} are no whole number of patches of {patch}, the rest would"
            f" be cut off unseen: give --image-size {fitting}"
        )
    return size


def sincos_version(positions: Tensor | None) -> SincosVersion | None:
    """Which fixed table a square grid's positions are, with a row of zeros for the class; None: none of them."""
    shape = (0,) if positions is None else tuple(positions.shape)
    if positions is None or len(shape) != 3 or shape[-1] % 4:
        return None
    side = math.isqrt(max(0, shape[1] - 1))
    if side < 2 or side * side != shape[1] - 1:
        return None
    table = positions.float()
    if bool(table[:, 0].any()):
        return None
    versions: tuple[SincosVersion, ...] = ("sincos_2d_mae", "sincos_2d_moco")
    for version in versions:
        if torch.allclose(table[:, 1:], sincos_2d((side, side), shape[-1], version), rtol=0, atol=_TABLE_TOLERANCE):
            return version
    return None


def has_table(checkpoint: Checkpoint, version: SincosVersion) -> bool:
    """Whether the position table of one of the checkpoint's state dicts is that fixed one."""
    tables = [checkpoint.tensors.get(f"{prefix}pos_embed") for prefix in tree_prefixes(checkpoint)]
    return any(sincos_version(table) == version for table in tables)


def imagenet_description(
    tree: Tree,
    stated: Stated,
    resampling: ResampleMethod,
    *,
    interpolation: Interpolation = "bicubic",
    crop_fraction: float = 0.875,
    notes: Sequence[str] = (),
) -> Description:
    """A model whose repository evaluates on ImageNet's mean and standard deviation, on the centre of a resized picture.

    Raises:
        WeightsError: as `read_config`; pictures that have no three colours.
    """
    config, sources, found = read_config(tree, stated)
    if config.in_channels != 3:
        raise WeightsError(f"{tree.where}: pictures of {config.in_channels} channels, where the family has 3 colours")
    preprocessing = Preprocessing(config.image_size, "crop", crop_fraction, interpolation, IMAGENET_MEAN, IMAGENET_STD)
    labels, label_source = read_labels(tree.checkpoint, config.num_classes)
    sources["labels"] = label_source
    all_notes = (*found, *notes)
    # None of these repositories resizes patches; timm, which reads their files, does it so.
    return Description(
        config,
        preprocessing,
        labels,
        sources,
        notes=all_notes,
        resampling=resampling,
        patch_resampling="bicubic_antialias",
    )
