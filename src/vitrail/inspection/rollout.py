"""What reaches the answer from each patch, when attention is followed through all layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.inspection.attention import LayerAttention, check_layers, pooled_queries, visit_attention
from vitrail.models.vit import VisionTransformer


@dataclass(frozen=True)
class Rollout:
    """Attention rollout of a batch.

    Attributes:
        layers: the depths that `maps` has: each the rollout up to and with this block.
        maps: (layers, B, grid height, grid width) float64: the share of each patch in what the pooled tokens have
            become by then; with the share of prefix tokens they sum to 1.
    """

    layers: tuple[int, ...]
    maps: Tensor


def roll_out(matrices: Iterable[Tensor]) -> Tensor:
    """The product of what each layer mixes: R_l = A'_l R_(l-1), A' = (A + 1) with rows divided by their sums.

    Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3: half of a token is what it sees,
    half itself, because of the residual path.

    Args:
        matrices: (..., N, N), each layer's weights, averaged over heads, from the first layer on.

    Returns:
        (..., N, N) float64, rows summing to 1.

    Raises:
        ValueError: no matrix.
    """
    rolled: Tensor | None = None
    for matrix in matrices:
        rolled = _mixed(matrix, rolled)
    if rolled is None:
        raise ValueError("no layer to roll out")
    return rolled


def attention_rollout(model: VisionTransformer, images: Tensor, layers: Sequence[int] | None = None) -> Rollout:
    """See `Rollout` (Dosovitskiy et al. 2021, figures 6 and 14). No block is left out, whatever depths are asked for.

    For models that pool patches the row is the mean of the patches' rows. Args and errors as in `visit_attention`.
    """
    config = model.config
    wanted, queries = check_layers(layers, config.depth), pooled_queries(model)
    maps: list[Tensor] = []
    rolled: Tensor | None = None

    def visit(layer: LayerAttention) -> None:
        nonlocal rolled
        mean = torch.zeros(len(images), *[config.num_tokens] * 2, dtype=torch.float64, device=images.device)
        for head in range(config.num_heads):
            for start, rows in layer.parts(head):
                mean[:, start : start + rows.shape[1]] += rows / config.num_heads
        rolled = _mixed(mean, rolled)
        if layer.layer in wanted:
            maps.append(rolled[:, queries, config.num_prefix_tokens :].mean(1).unflatten(-1, config.grid))

    visit_attention(model, images, visit, range(wanted[-1] + 1))
    return Rollout(tuple(wanted), torch.stack(maps))


def _mixed(weights: Tensor, before: Tensor | None) -> Tensor:
    mixing = weights.double() + torch.eye(weights.shape[-1], dtype=torch.float64, device=weights.device)
    mixing = mixing / mixing.sum(-1, keepdim=True)
    return mixing if before is None else mixing @ before
