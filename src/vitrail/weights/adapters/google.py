"""Google's npz files: the first paper, AugReg, SAM, and what vision_transformer (vit_jax) writes today.

Dosovitskiy et al. 2021; Steiner et al. 2021; Chen, Hsieh and Gong 2022; hybrids too. The position table stands in
"Transformer/posembed_input" and has a row for the class token; without a class token the mean is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters import big_vision
from vitrail.weights.adapters.base import Adapter, Description, Model, Writing
from vitrail.weights.adapters.flax_names import MAP_HEAD, POSITIONS_OF_PAPER, PRE_LINEN, Tree, tree_entries
from vitrail.weights.adapters.flax_shapes import (
    BIT_ROOT,
    find_prefix,
    find_resnet,
    find_tree,
    read_config,
    why_unused,
)
from vitrail.weights.adapters.flax_writing import assumed_by_flax, require_sayable, timm_line
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.shape_rules import read_labels
from vitrail.weights.checkpoint import Checkpoint


def recognise(checkpoint: Checkpoint) -> str | None:
    resnet = find_resnet(checkpoint)
    if resnet is not None:
        return f"it has '{resnet}'"
    prefix = find_prefix(checkpoint)
    if prefix is None or any(f"{prefix}{head}probe" in checkpoint.tensors for head in (MAP_HEAD, "")):
        return None
    # Pre-Linen numbers as well as the table: a file whose table is missing is damaged, and not one of big_vision.
    for name in (POSITIONS_OF_PAPER, f"Transformer/encoderblock_0/{PRE_LINEN.attention}/query/kernel"):
        if prefix + name in checkpoint.tensors:
            return f"it has '{prefix}{name}'"
    return None


def describe(checkpoint: Checkpoint) -> Description:
    _refuse_bit(checkpoint)
    tree = find_tree(checkpoint)
    if tree.positions is None:
        raise WeightsError(f"{checkpoint.where}: the tensor '{tree.prefix}{POSITIONS_OF_PAPER}' is missing")
    config, sources = read_config(checkpoint, tree)
    labels, sources["labels"] = read_labels(checkpoint, config.num_classes)
    half = (0.5,) * config.in_channels
    return Description(
        config,
        # vit_jax's input pipeline: the test picture is resized to the size as it is, whatever its aspect.
        Preprocessing(config.image_size, resize="squash", interpolation="bilinear", mean=half, std=half),
        labels,
        sources,
        resampling="bilinear_align_corners",
        patch_resampling="bilinear",
    )


def _refuse_bit(checkpoint: Checkpoint) -> None:
    """BiT's ResNets come without a Transformer; a hybrid's is read as the stem of one."""
    resnet = find_resnet(checkpoint)
    if resnet is not None and resnet.endswith(BIT_ROOT):
        raise WeightsError(
            f"{checkpoint.where}: '{resnet}' is of a BiT ResNet, which is no Vision Transformer and is not read"
        )


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(config, find_tree(checkpoint))


def write(model: Model[ViTConfig]) -> Writing:
    """The names of the released files for models that pool by a class token with a position of its own; others under
    big_vision's, which timm reads as well.

    Raises:
        WeightsError: an architecture that Google's code does not have; names the field.
    """
    config = model.config
    if config.pooling != "token" or not config.position_for_prefix or config.position_embedding.startswith("sincos"):
        return big_vision.write(model)
    require_sayable(config, "Google's code", position_embedding=("learned_1d",), stems=("patch", "resnet"))
    tree = Tree("", POSITIONS_OF_PAPER, (PRE_LINEN,) * config.depth)
    # timm's reader leaves the pre-logits out.
    how = timm_line(config) if config.pre_logits_size is None else 'vit_jax.checkpoint.load("{file}")'
    return Writing("model.npz", tree_entries(config, tree), assumed=assumed_by_flax(config), how_to_load=how)


ADAPTER = Adapter(
    "google",
    "Google's npz files",
    (
        "embedding/kernel",
        POSITIONS_OF_PAPER,
        "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query/kernel",
        "Transformer/encoderblock_{}/LayerNorm_2/scale",
        "Transformer/encoder_norm/scale",
    ),
    recognise,
    describe,
    entries,
    why_unused,
)
