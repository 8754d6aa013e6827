"""big_vision (Beyer, Zhai, Kolesnikov): plain ViTs, and the image towers of LiT and SigLIP.

Positions are added before the class token joins the patches, so that they are as many as the patches; pooling is by
mean, attention ("MAP") or class token; blocks may be stacked ("scanned"), numbers may be bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description, Model, Writing
from vitrail.weights.adapters.flax_names import LINEN, MAP_HEAD, Tree, tree_entries
from vitrail.weights.adapters.flax_shapes import find_prefix, find_tree, read_config, why_unused
from vitrail.weights.adapters.flax_writing import assumed_by_flax, require_sayable, timm_line
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.shape_rules import read_labels
from vitrail.weights.checkpoint import Checkpoint

_DEFAULT_SIDE = 224
# Short side of the picture before the centre is cut, by the side that is cut: 224 of 256, but 384 of 448.
_RESIZED = {384: 448}
_CROP_FRACTION = 0.875


def recognise(checkpoint: Checkpoint) -> str | None:
    prefix = find_prefix(checkpoint)
    if prefix is None:
        return None
    return f"it has '{prefix}embedding/kernel' and '{prefix}Transformer/...'"


def describe(checkpoint: Checkpoint) -> Description:
    tree = find_tree(checkpoint)
    config, sources = read_config(checkpoint, tree, default_side=_DEFAULT_SIDE)
    labels, sources["labels"] = read_labels(checkpoint, config.num_classes)
    is_tower = tree.prefix.endswith("img/")
    notes = []
    if tree.is_scanned:
        notes.append("the blocks were stored stacked and are taken apart")
    if is_tower and config.num_classes:
        notes.append("the head projects into the space that the pictures share with the texts: it names no classes")
    if config.position_embedding != "learned_1d":
        notes.append("the positions are computed (sincos2d), because the file holds no table")
    return Description(
        config,
        _preprocessing(config, is_tower),
        labels,
        sources,
        notes=tuple(notes),
        resampling="bilinear_align_corners",
        patch_resampling="bilinear",
    )


def _preprocessing(config: ViTConfig, is_tower: bool) -> Preprocessing:
    half = (0.5,) * config.in_channels
    if is_tower:
        return Preprocessing(config.image_size, resize="squash", interpolation="bilinear", mean=half, std=half)
    side = min(config.image_size)
    fraction = side / _RESIZED[side] if side in _RESIZED else _CROP_FRACTION
    return Preprocessing(config.image_size, "crop", fraction, "bilinear", mean=half, std=half)


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(config, find_tree(checkpoint))


def write(model: Model[ViTConfig]) -> Writing:
    """The names of big_vision's training states, for what only its code computes: gap, MAP, class token without row.

    Raises:
        WeightsError: an architecture that its code does not have; names the field.
    """
    config = model.config
    require_sayable(config, "big_vision", position_embedding=("learned_1d", "sincos_2d_big_vision"))
    if config.class_token != (config.pooling == "token"):
        raise WeightsError(
            f"big_vision has a class token where it pools by it, and nowhere else; this model has class_token"
            f" {config.class_token} with pooling '{config.pooling}'"
        )
    positions = "pos_embedding" if config.position_embedding == "learned_1d" else None
    tree = Tree("params/", positions, (LINEN,) * config.depth, map_head=MAP_HEAD)
    # timm's reader leaves the pre-logits out and looks for a position table.
    how = 'big_vision.models.vit.load(None, "{file}", None)'
    if config.pre_logits_size is None and positions is not None:
        how = timm_line(config)
    return Writing("model.npz", tree_entries(config, tree), assumed=assumed_by_flax(config), how_to_load=how)


ADAPTER = Adapter(
    "big_vision",
    "big_vision",
    (
        "embedding/kernel",
        "pos_embedding",
        "Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/query/kernel",
        "Transformer/encoderblock_{}/LayerNorm_1/scale",
        "Transformer/encoder_norm/scale",
    ),
    recognise,
    describe,
    entries,
    why_unused,
)
