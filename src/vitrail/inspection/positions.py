"""What the model has learnt of places."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.models.vit import VisionTransformer


def position_similarity(model: VisionTransformer, layer: int = 0) -> Tensor:
    """Cosine similarity of the position of every patch with those of all: (rows, columns, rows, columns) float64.

    Dosovitskiy et al. 2021, figure 7, centre: without the class token's row, and without taking a mean off.

    Args:
        layer: where every layer has a table of its own.

    Raises:
        ValueError: a model that adds no positions, or has none for this layer.
    """
    table = model.positions()
    if table is None:
        raise ValueError(f"position_embedding {model.config.position_embedding!r} gives a place no vector of its own")
    if not 0 <= layer < len(table):
        raise ValueError(f"there is no table of positions for layer {layer}: the model has {len(table)}")
    rows = table[layer, model.config.num_prefix_tokens :].detach().double()
    rows = torch.nn.functional.normalize(rows, dim=1, eps=1e-300)
    return (rows @ rows.t()).view(*model.config.grid, *model.config.grid)
