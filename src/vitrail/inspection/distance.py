"""How far each head looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.inspection.attention import LayerAttention, check_layers, visit_attention
from vitrail.models.vit import VisionTransformer

DEFINITION = (
    "the distance in pixels between the centre of a patch and those of all patches, weighted with the attention it "
    "pays them, averaged over patches and pictures (Dosovitskiy et al. 2021, figure 7, right)"
)


@dataclass(frozen=True)
class AttentionDistance:
    """Mean attention distance.

    Attributes:
        layers: the blocks, from 0.
        pixels: (layers, heads) float64, in pixels of the picture as the model sees it.
        renormalized: True: each patch's weights on patches sum to 1; False: what it gives to prefix tokens counts as
            distance 0. The paper does not say; False is how its later readers compute it.
        even: that of a head which pays all patches the same, and prefix tokens nothing.
    """

    layers: tuple[int, ...]
    pixels: Tensor
    renormalized: bool
    even: float


def definition_of(distance: AttentionDistance, num_prefix_tokens: int) -> str:
    """What these distances are, in a sentence or two that begin in the middle of one."""
    is_plain = distance.renormalized or not num_prefix_tokens
    return f"{DEFINITION}.{'' if is_plain else ' What goes to the class token and its like counts as no distance.'}"


def patch_distances(grid: tuple[int, int], patch_size: int) -> Tensor:
    """Between the centres of patches, in pixels: (patches, patches) float64, patches in raster order."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    return patch_size * torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def mean_attention_distance(
    model: VisionTransformer, images: Tensor, layers: Sequence[int] | None = None, *, renormalize: bool = False
) -> AttentionDistance:
    """See `AttentionDistance`; the paper averages over 128 pictures.

    Args and errors as in `visit_attention`.
    """
    config = model.config
    prefix, wanted = config.num_prefix_tokens, check_layers(layers, config.depth)
    distances = patch_distances(config.grid, config.image_size[0] // config.grid[0]).to(images.device)
    found = torch.zeros(len(wanted), config.num_heads, dtype=torch.float64, device=images.device)

    def visit(layer: LayerAttention) -> None:
        for head in range(config.num_heads):
            for start, rows in layer.parts(head):
                rows = rows[:, max(0, prefix - start) :, prefix:]
                first = max(start, prefix) - prefix
                far = (rows * distances[first : first + rows.shape[1]]).sum(-1)
                if renormalize:
                    far = far / rows.sum(-1)
                found[wanted.index(layer.layer), head] += far.sum() / (len(images) * config.num_patches)

    visit_attention(model, images, visit, wanted)
    return AttentionDistance(tuple(wanted), found, renormalize, float(distances.mean()))
