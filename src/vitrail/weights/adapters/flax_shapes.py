"""What the names and shapes of a checkpoint of Google's Flax code say of its model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import Pooling, ViTConfig
from vitrail.weights.adapters.flax_names import (
    LINEN,
    MAP_HEAD,
    POSITIONS,
    POSITIONS_OF_PAPER,
    PRE_LINEN,
    ROOT,
    BlockNames,
    Tree,
)
from vitrail.weights.adapters.flax_resnet import RESNET_ROOT
from vitrail.weights.adapters.shape_rules import CALLER
from vitrail.weights.checkpoint import Checkpoint

# The trees that published files have, the likeliest first; another is taken where it is the only one.
_PREFIXES = ("", "params/", "opt/target/", "params/img/", "img/", "target/")
# What stands beside the weights. A training state keeps the weights themselves under "opt/target/".
_BESIDE = (
    (re.compile(r"(?!opt/target/)(opt|opt_state|optimizer)/"), "the optimizer's state"),
    (re.compile(r"(chrono|step)(/|$)"), "the clock of the training"),
    (re.compile(r"(params/)?txt/"), "the text tower"),
    (re.compile(r"(params/)?[tb]$"), "temperature and bias of the contrastive loss"),
)
BIT_ROOT = "resnet/root_block/standardized_conv2d/kernel"
_HYBRIDS = (RESNET_ROOT, "block1/unit1/conv1/kernel")


def why_unused(name: str) -> str | None:
    """Why a tensor beside the tree is no loss; None: it would be one."""
    return next((reason for pattern, reason in _BESIDE if pattern.match(name)), None)


def find_resnet(checkpoint: Checkpoint) -> str | None:
    """The tensor by which a checkpoint is known as a hybrid or a BiT ResNet."""
    names = (prefix + name for prefix in _PREFIXES for name in (*_HYBRIDS, BIT_ROOT))
    return next((name for name in names if name in checkpoint.tensors), None)


def find_stages(checkpoint: Checkpoint, prefix: str) -> tuple[int, ...] | None:
    """Units of each stage of a hybrid's ResNet, () for the root alone; None: there is no ResNet.

    Raises:
        WeightsError: stages or units that are not numbered from 1 without a gap, or no root.
    """
    pattern = re.compile(re.escape(prefix) + r"block(\d{1,3})/unit(\d{1,3})/")
    found = {(int(match[1]), int(match[2])) for match in filter(None, map(pattern.match, checkpoint.tensors))}
    if prefix + RESNET_ROOT not in checkpoint.tensors:
        if found:
            raise WeightsError(f"{checkpoint.where}: '{prefix}{RESNET_ROOT}' is missing, the ResNet's first layer")
        return None
    stages = tuple(
        max(unit for stage, unit in found if stage == number) if number in {stage for stage, _ in found} else 0
        for number in range(1, max((stage for stage, _ in found), default=0) + 1)
    )
    for number, units in enumerate(stages, start=1):
        for unit in range(1, max(1, units) + 1):
            if (number, unit) not in found:
                raise WeightsError(f"{checkpoint.where}: '{prefix}block{number}/unit{unit}/...' is missing")
    return stages


def find_prefix(checkpoint: Checkpoint) -> str | None:
    """Where the tree stands; None: there is none.

    Raises:
        WeightsError: the caller named a tree that is not there, or there are several, of which none is a known one.
    """
    roots = [name.removesuffix(ROOT) for name in checkpoint.tensors if name == ROOT or name.endswith("/" + ROOT)]
    found = [
        prefix
        for prefix in roots
        if why_unused(prefix) is None and any(name.startswith(f"{prefix}Transformer/") for name in checkpoint.tensors)
    ]
    if not found:
        return None
    choice = checkpoint.choices.prefix
    listed = ", ".join(f"'{prefix}'" for prefix in found)
    if choice is not None:
        wanted = choice.rstrip("/") + "/" if choice.rstrip("/") else ""
        if wanted not in found:
            raise WeightsError(f"{checkpoint.where}: no tree of weights under --prefix '{wanted}'; there are: {listed}")
        return wanted
    known = [prefix for prefix in _PREFIXES if prefix in found]
    if not known and len(found) > 1:
        raise WeightsError(f"{checkpoint.where}: several trees of weights: {listed}; choose one with --prefix")
    return known[0] if known else found[0]


def find_tree(checkpoint: Checkpoint) -> Tree:
    """The names of the checkpoint's tree.

    Raises:
        WeightsError: there is no tree, or its blocks are not numbered from 0 without a gap.
    """
    prefix = find_prefix(checkpoint)
    if prefix is None:
        raise WeightsError(f"{checkpoint.where}: no tensor '{ROOT}', with which the weights of Google's code begin")
    pattern = re.compile(re.escape(prefix) + r"Transformer/encoderblock(?:_(\d{1,4}))?/([^/]+)/")
    stacked: set[str] = set()
    numbered: dict[int, set[str]] = {}
    for match in filter(None, map(pattern.match, checkpoint.tensors)):
        (stacked if match[1] is None else numbered.setdefault(int(match[1]), set())).add(match[2])
    if stacked:
        stack = f"{prefix}Transformer/encoderblock/LayerNorm_0/scale"
        depth, width = _shape(checkpoint, stack, 2)
        if depth < 1 or width < 1:
            raise WeightsError(f"{checkpoint.where}: '{stack}' ({depth}, {width}) is empty")
        blocks = (_block_names(stacked),) * depth
    else:
        missing = next((number for number in range(max(1, len(numbered))) if number not in numbered), None)
        if missing is not None:
            raise WeightsError(
                f"{checkpoint.where}: '{prefix}Transformer/encoderblock_{missing}/...' is missing"
                f" ({len(numbered)} other blocks are there)"
            )
        blocks = tuple(_block_names(numbered[number]) for number in sorted(numbered))
    positions = next((name for name in POSITIONS if prefix + name in checkpoint.tensors), None)
    # While ViT-G was developed the parts of the attention pooling stood beside the encoder.
    map_head = next((head for head in (MAP_HEAD, "") if f"{prefix}{head}probe" in checkpoint.tensors), None)
    return Tree(prefix, positions, blocks, bool(stacked), map_head)


def _block_names(parts: set[str]) -> BlockNames:
    """Which numbers the parts of one block have; where one is missing, the number that it should have."""

    def numbered(kind: str) -> list[str]:
        numbers = [int(part[len(kind) :]) for part in parts if re.fullmatch(rf"{kind}\d{{1,3}}", part)]
        return [f"{kind}{number}" for number in sorted(numbers)]

    usual = PRE_LINEN if PRE_LINEN.attention in parts or PRE_LINEN.mlp in parts else LINEN
    norms = numbered("LayerNorm_")
    if len(norms) < 2:
        norms = [usual.norm1, usual.norm2]
    attention = numbered("MultiHeadDotProductAttention_") or [usual.attention]
    mlp = numbered("MlpBlock_") or [usual.mlp]
    return BlockNames(norms[0], attention[0], norms[1], mlp[0])


@dataclass(frozen=True)
class _PictureSize:
    image_size: tuple[int, int]
    has_class_row: bool  # whether the class token has a row of the position table
    source: str


def read_config(
    checkpoint: Checkpoint, tree: Tree, *, default_side: int | None = None
) -> tuple[ViTConfig, dict[str, str]]:
    """The architecture of a tree, and where each of its fields was taken from.

    GELU and epsilon are those of the code, which no shape tells: jax.nn.gelu is the tanh approximation unless told
    otherwise, and flax.linen.LayerNorm has 1e-6.

    Args:
        default_side: pixels, for models without a position table, whose shapes do not tell it.
    Raises:
        WeightsError: a tensor is missing, contradicts another, or means what the model cannot compute.
    """
    where, prefix, skipped = checkpoint.where, tree.prefix, int(tree.is_scanned)
    stem, (patch_size, in_channels, width) = _read_stem(checkpoint, prefix)
    attention = f"{tree.block(0)}{tree.blocks[0].attention}/"
    num_heads, head_dim = _heads(checkpoint, attention, skipped)
    mlp = _shape(checkpoint, f"{tree.block(0)}{tree.blocks[0].mlp}/Dense_0/kernel", 2 + skipped)
    has_class_token = prefix + "cls" in checkpoint.tensors
    pooling: Pooling = "map" if tree.map_head is not None else "token" if has_class_token else "gap"
    size = _picture_size(checkpoint, tree, patch_size, default_side)
    fields: dict[str, Any] = {
        "image_size": size.image_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        **stem,
    }
    for name, field in (("pre_logits", "pre_logits_size"), ("head", "num_classes")):
        if f"{prefix}{name}/kernel" in checkpoint.tensors:
            fields[field] = _shape(checkpoint, f"{prefix}{name}/kernel", 2)[1]
    try:
        config = ViTConfig(
            **{"num_classes": 0, **fields},
            width=width,
            depth=len(tree.blocks),
            num_heads=num_heads,
            head_dim=None if num_heads * head_dim == width else head_dim,
            mlp_size=mlp[-1],
            pooling=pooling,
            class_token=has_class_token,
            position_embedding="sincos_2d_big_vision" if tree.positions is None else "learned_1d",
            position_for_prefix=size.has_class_row or not has_class_token,
            activation="gelu_tanh",
            layer_norm_eps=1e-6,
        )
    except ConfigError as error:
        raise WeightsError(f"{where}: its shapes are those of no model ({error})") from error
    return config, {**_sources(tree, has_class_token, "pre_logits_size" in fields), "image_size": size.source}


def _sources(tree: Tree, has_class_token: bool, has_pre_logits: bool) -> dict[str, str]:
    query = f"{tree.block(0)}{tree.blocks[0].attention}/query/"
    by_class_token = f"{'' if has_class_token else 'no '}'{tree.prefix}cls'"
    by_heads = f"the shape of '{query}kernel'"
    positions = "no position table in the file: big_vision keeps its sincos2d out of it"
    if tree.positions is not None:
        positions = f"'{tree.prefix}{tree.positions}'"
    return {
        "num_heads": by_heads,
        "head_dim": by_heads,
        "qkv_bias": f"'{query}bias'",
        "class_token": by_class_token,
        "pooling": by_class_token if tree.map_head is None else f"'{tree.prefix}{tree.map_head}probe'",
        "pre_logits_size": f"{'' if has_pre_logits else 'no '}'{tree.prefix}pre_logits/kernel'",
        "position_embedding": positions,
        "position_for_prefix": positions if tree.positions is None else f"the rows of {positions}",
    }


def _read_stem(checkpoint: Checkpoint, prefix: str) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Fields of the stem, and (pixels of a token's side, channels of the picture, width)."""
    kernel, _, channels, width = _patch_kernel(checkpoint, prefix + ROOT)
    stages = find_stages(checkpoint, prefix)
    if stages is None:
        _require_colours(checkpoint, prefix + ROOT, channels)
        return {}, (kernel, channels, width)
    name = prefix + RESNET_ROOT
    _, _, in_channels, root_width = _shape(checkpoint, name, 4)
    _require_colours(checkpoint, name, in_channels)
    stride = 4 * 2 ** max(0, len(stages) - 1)
    stem = {"stem": "resnet", "stem_widths": (root_width,), "stem_blocks": stages}
    return stem, (kernel * stride, in_channels, width)


def _require_colours(checkpoint: Checkpoint, name: str, channels: int) -> None:
    if channels not in (1, 3):
        raise WeightsError(f"{checkpoint.where}: '{name}' takes {channels} channels; pictures have 1 or 3")


def _patch_kernel(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    shape = checkpoint.shape(name) or ()
    if len(shape) == 2:
        raise WeightsError(
            f"{checkpoint.where}: '{name}' {shape} embeds the patches of pictures of any aspect (NaFlex), which this"
            " version cannot compute"
        )
    shape = _shape(checkpoint, name, 4)
    if min(shape) < 1:
        raise WeightsError(f"{checkpoint.where}: '{name}' {shape} is empty")
    if shape[0] != shape[1]:
        raise WeightsError(f"{checkpoint.where}: '{name}' has patches of {shape[0]}x{shape[1]}, not squares")
    return shape


def _heads(checkpoint: Checkpoint, attention: str, skipped: int) -> tuple[int, int]:
    for name in (f"{attention}query_ln/scale", f"{attention}key_ln/scale"):
        if name in checkpoint.tensors:
            raise WeightsError(
                f"{checkpoint.where}: '{name}' normalises queries and keys, which this version cannot compute"
            )
    name = f"{attention}query/kernel"
    _, num_heads, head_dim = _shape(checkpoint, name, 3 + skipped)[skipped:]
    chosen = checkpoint.choices.num_heads
    if chosen is not None and chosen != num_heads:
        raise WeightsError(
            f"{checkpoint.where}: --num-heads {chosen} contradicts '{name}', which has {num_heads} heads"
        )
    return num_heads, head_dim


def _picture_size(checkpoint: Checkpoint, tree: Tree, patch_size: int, default_side: int | None) -> _PictureSize:
    where, chosen = checkpoint.where, checkpoint.choices.image_size
    if tree.positions is None:
        if chosen is not None:
            return _PictureSize(chosen, False, CALLER)
        if default_side is None or default_side % patch_size:
            raise WeightsError(f"{where}: no position table tells the picture size; give --image-size HEIGHT WIDTH")
        return _PictureSize((default_side, default_side), False, "the family's rule, for want of a position table")
    name = tree.prefix + tree.positions
    tables, rows, _ = _shape(checkpoint, name, 3)
    if tables != 1:
        raise WeightsError(f"{where}: '{name}' {checkpoint.shape(name)} is not one table of (1, rows, width)")
    # The first paper's code adds positions after the class token has joined the patches; big_vision today before.
    possible: tuple[bool, ...] = (False,)
    if tree.prefix + "cls" in checkpoint.tensors:
        possible = (True,) if tree.positions == POSITIONS_OF_PAPER else (False, True)
    for has_class_row in possible:
        num_patches = rows - int(has_class_row)
        if chosen is not None:
            if (chosen[0] // patch_size) * (chosen[1] // patch_size) == num_patches:
                return _PictureSize(chosen, has_class_row, CALLER)
        elif num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches:
            side = math.isqrt(num_patches) * patch_size
            return _PictureSize((side, side), has_class_row, f"the {rows} rows of '{name}', taken as a square")
    counted = f"the {rows} rows of '{name}'"
    if True in possible:
        counted += f", the class token's {'among' if len(possible) == 1 else 'perhaps among'} them,"
    if chosen is not None:
        raise WeightsError(
            f"{where}: --image-size {chosen[0]} {chosen[1]} with patches of {patch_size} pixels does not give {counted}"
        )
    raise WeightsError(f"{where}: {counted} are no square of patches; give --image-size HEIGHT WIDTH")


def _shape(checkpoint: Checkpoint, name: str, num_axes: int) -> tuple[int, ...]:
    shape = checkpoint.shape(name)
    if shape is None:
        raise WeightsError(f"{checkpoint.where}: the tensor '{name}' is missing")
    if len(shape) != num_axes:
        raise WeightsError(f"{checkpoint.where}: '{name}' {shape} does not have {num_axes} axes")
    return shape
