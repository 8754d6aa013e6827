"""Where each head looks, and how widely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.inspection.attention import LayerAttention, pooled_queries, visit_attention
from vitrail.models.vit import VisionTransformer


@dataclass(frozen=True)
class AttentionMaps:
    """Where each head of one block looks, and how widely.

    Attributes:
        layer: the block, from 0.
        weights: (B, heads, grid height, grid width) float64: what the pooled tokens give to the patches: the class
            token (with a distillation token the mean of the two), or the mean of the patches' own rows where the model
            pools patches. What goes to prefix tokens is left out, and not made up for.
        entropy: (B, heads) of a row of all N weights, in nats, averaged over all queries: 0 for one key, log N for all.
        source: "class token", or "mean of the patches", in words for a caption.
    """

    layer: int
    weights: Tensor
    entropy: Tensor
    source: str


def attention_maps(
    model: VisionTransformer, images: Tensor, layers: Sequence[int] | None = None
) -> tuple[AttentionMaps, ...]:
    """See `AttentionMaps` (Caron et al. 2021, "DINO", section 4.2.2, for the last block); one for each layer asked for.

    Args and errors as in `visit_attention`.
    """
    config = model.config
    found: list[AttentionMaps] = []
    queries = pooled_queries(model)

    def visit(layer: LayerAttention) -> None:
        batch, heads = layer.query.shape[:2]
        weights = torch.zeros(batch, heads, config.num_patches, dtype=torch.float64, device=images.device)
        entropy = torch.zeros(batch, heads, dtype=torch.float64, device=images.device)
        for head in range(heads):
            for start, rows in layer.parts(head):
                here = queries[(queries >= start) & (queries < start + rows.shape[1])] - start
                weights[:, head] += rows[:, here, config.num_prefix_tokens :].sum(1) / len(queries)
                entropy[:, head] -= torch.special.xlogy(rows, rows).sum((1, 2)) / config.num_tokens
        source = "class token" if config.class_token and int(queries[0]) == 0 else "mean of the patches"
        found.append(AttentionMaps(layer.layer, weights.unflatten(-1, config.grid), entropy, source))

    visit_attention(model, images, visit, layers)
    return tuple(found)


def mass_masks(maps: Tensor, share: float = 0.6) -> Tensor:
    """The fewest patches that hold `share` of each map's weight.

    As DINO draws heads (Caron et al. 2021, figure 1 and its published code): the largest weights, until what is left
    out is at most 1 - share of the whole.

    Args:
        maps: (..., height, width), not negative.

    Returns:
        (..., height, width) bool.

    Raises:
        ValueError: a share that is not between 0 and 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not above 0 and at most 1")
    flat = maps.double().flatten(-2)
    ascending, order = flat.sort(dim=-1)
    below = ascending.cumsum(-1) / flat.sum(-1, keepdim=True).clamp_min(math.ulp(0.0))
    kept = below > 1 - share + 1e-12
    return torch.zeros_like(kept).scatter(-1, order, kept).view(maps.shape)
