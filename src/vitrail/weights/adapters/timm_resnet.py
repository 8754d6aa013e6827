"""The ResNet of timm's hybrids: what its names and shapes tell."""

from __future__ import annotations

from typing import Any

from vitrail.errors import WeightsError
from vitrail.weights.adapters.timm_names import Tree
from vitrail.weights.checkpoint import count_numbered

_BACKBONE = "patch_embed.backbone."


def read_stem(tree: Tree, kernel_size: int) -> tuple[dict[str, Any], int]:
    """Fields of the config that the ResNet gives, in_channels among them, and the pixels of a token's side.

    Args:
        kernel_size: of the patch projection, in cells of what it sees.
    Returns:
        No fields where there is no ResNet.
    Raises:
        WeightsError: a root is missing, or stages or units of a ResNet are.
    """
    if not any(name.startswith(_BACKBONE) for name in tree.names):
        return {}, kernel_size
    num_stages = count_numbered(tree.names, f"{_BACKBONE}stages.{{}}.blocks.0.conv1.weight")
    stages = tuple(
        count_numbered(tree.names, f"{_BACKBONE}stages.{stage}.blocks.{{}}.conv1.weight") for stage in range(num_stages)
    )
    # Where there are no stages the root stands alone, under no name of its own.
    root = f"{_BACKBONE}{'stem.' if stages else ''}conv.weight"
    shape = tree.shape(root)
    if shape is None or len(shape) != 4:
        found = "missing" if shape is None else f"{shape}, not of 4 dimensions"
        raise WeightsError(f"{tree.where}: '{tree.prefix}{root}', the first layer of the hybrid's ResNet, is {found}")
    stem: dict[str, Any] = {
        "stem": "resnet",
        "stem_widths": (shape[0],),
        "stem_blocks": stages,
        "stem_numerics": "timm",
        "in_channels": shape[1],
    }
    return stem, kernel_size * 4 * 2 ** max(0, num_stages - 1)
