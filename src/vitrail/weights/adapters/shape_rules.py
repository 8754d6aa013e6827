"""What shapes and counts say of a model that comes without a config; the caller's word goes first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitrail.errors import WeightsError
from vitrail.models.variants import SIZES
from vitrail.weights.checkpoint import Checkpoint
from vitrail.weights.labels import default_labels, unique_labels

SHAPES = "the shapes of the tensors"
CALLER = "the caller"


def shape_of(checkpoint: Checkpoint, name: str, num_dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there. Raises WeightsError: it is not, or has other dimensions."""
    shape = checkpoint.shape(name)
    if shape is None or len(shape) != num_dimensions or 0 in shape:
        found = "missing" if shape is None else str(shape)
        raise WeightsError(f"{checkpoint.where}: '{name}' is {found}; it must have {num_dimensions} dimensions")
    return shape


def read_num_heads(
    checkpoint: Checkpoint,
    width: int,
    depth: int,
    mlp_size: int,
    stated: tuple[int, str] | None = None,
    *,
    heads_of_64: bool = False,
) -> tuple[int, str]:
    """Number of heads, which shapes cannot tell, and where it is from: the caller's word first.

    Args:
        stated: what the files, or an architecture's name, say, and which of them.
        heads_of_64: every published model of the family has heads of 64 features.
    Raises:
        WeightsError: nobody says it, no published size has these shapes, and no rule of the family tells.
    """
    if checkpoint.choices.num_heads is not None:
        return checkpoint.choices.num_heads, CALLER
    if stated is not None:
        return stated
    for name, size in SIZES.items():
        if (size.width, size.depth, size.mlp_size) == (width, depth, mlp_size):
            return size.num_heads, f"the size, which is that of ViT-{name}"
    if heads_of_64 and width % 64 == 0:
        return width // 64, "the family's rule, heads of 64 features"
    raise WeightsError(
        f"{checkpoint.where}: nothing tells how many heads a model of width {width}, {depth} blocks and MLPs of"
        f" {mlp_size} has: give --num-heads"
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


def read_labels(
    checkpoint: Checkpoint, num_classes: int, names: Sequence[str] | None = None, source: str = ""
) -> tuple[tuple[str, ...], str]:
    """Labels in the head's order, and where they are from: the caller, else `names` from `source`, else their number.

    Raises:
        WeightsError: another number of them than classes.
    """
    if checkpoint.choices.labels is not None:
        names, source = checkpoint.choices.labels, CALLER
    if names is None:
        return default_labels(num_classes), "the number of classes"
    if len(names) != num_classes:
        raise WeightsError(f"{checkpoint.where}: {len(names)} labels ({source}) for a head of {num_classes} classes")
    return unique_labels(tuple(names)), source
