"""What shapes and counts say of a model that comes without a config; the caller's word goes first."""

from __future__ import annotations

import math

from vitrail.errors import WeightsError
from vitrail.models.variants import SIZES
from vitrail.weights.checkpoint import Checkpoint
from vitrail.weights.labels import default_labels

SHAPES = "the shapes of the tensors"
CALLER = "the caller"


def shape_of(checkpoint: Checkpoint, name: str, num_dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there. Raises WeightsError: it is not, or has other dimensions."""
    shape = checkpoint.shape(name)
    if shape is None or len(shape) != num_dimensions or 0 in shape:
        found = "missing" if shape is None else str(shape)
        raise WeightsError(f"{checkpoint.where}: '{name}' is {found}; it must have {num_dimensions} dimensions")
    return shape


def heads_by_size(checkpoint: Checkpoint, width: int, depth: int, mlp_size: int) -> tuple[int, str]:
    """Number of heads, and where it is from: the published size of these shapes.

    Raises:
        WeightsError: no published size has them, and the caller says nothing.
    """
    if checkpoint.choices.num_heads is not None:
        return checkpoint.choices.num_heads, CALLER
    for name, size in SIZES.items():
        if (size.width, size.depth, size.mlp_size) == (width, depth, mlp_size):
            return size.num_heads, f"the shape, which is ViT-{name}'s"
    raise WeightsError(
        f"{checkpoint.where}: nothing tells the number of heads of width {width} and depth {depth}; give --num-heads"
    )


def image_size_by_rows(
    checkpoint: Checkpoint, table: str, num_patches: int, patch_size: int
) -> tuple[tuple[int, int], str]:
    """(height, width) in pixels, and where it is from: a square, unless the caller says otherwise.

    Args:
        table: name of the position table, for messages.
        num_patches: its rows that belong to patches.
    Raises:
        WeightsError: no square, and the caller says nothing, or something that has another number of patches.
    """
    chosen = checkpoint.choices.image_size
    side = math.isqrt(max(0, num_patches)) * patch_size
    size, source = ((side, side), SHAPES) if chosen is None else (chosen, CALLER)
    if min(size) < patch_size or (size[0] // patch_size) * (size[1] // patch_size) != num_patches:
        said = "which is no square" if chosen is None else f"not those of {size[0]} x {size[1]} pixels"
        raise WeightsError(
            f"{checkpoint.where}: '{table}' has positions of {num_patches} patches of {patch_size} pixels, {said};"
            " give the right --image-size HEIGHT WIDTH"
        )
    return size, source


def labels_by_count(checkpoint: Checkpoint, num_classes: int) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and where they are from. Raises WeightsError: the caller gave another number of them."""
    labels = checkpoint.choices.labels
    if labels is None:
        return default_labels(num_classes), "the number of classes"
    if len(labels) != num_classes:
        raise WeightsError(f"{checkpoint.where}: {len(labels)} labels were given for a head of {num_classes} classes")
    return labels, CALLER
