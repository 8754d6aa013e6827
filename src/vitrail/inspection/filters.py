"""What the patch embedding looks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.models.vit import VisionTransformer


@dataclass(frozen=True)
class EmbeddingFilters:
    """Principal components of the patch embedding's filters.

    Attributes:
        tiles: (count, patch height, patch width, channels) float64, each stretched to 0 to 1 by itself.
        variance: (count,) float64: the share of all filters' variance that each component has.
    """

    tiles: Tensor
    variance: Tensor


def embedding_filters(model: VisionTransformer, count: int = 28) -> EmbeddingFilters:
    """The first components of the filters less their mean, as Dosovitskiy et al. 2021 draw them (figure 7, left: 28).

    The sign of a component means nothing; here its largest value is positive, so that one model gives one picture.

    Args:
        count: at most so many; there are no more than filters, or values of one.

    Raises:
        ValueError: a model whose patch embedding does not see pixels.
    """
    if model.config.stem != "patch":
        raise ValueError(
            f"the stem {model.config.stem!r} has no filters of whole patches: they see features, not pixels"
        )
    kernel = model.patch_embed.proj.weight.detach().double()  # (width, channels, height, width)
    flat = kernel.permute(0, 2, 3, 1).flatten(1)
    _, lengths, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    components = components[:count]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    low, high = components.amin(1, keepdim=True), components.amax(1, keepdim=True)
    tiles = (components - low) / (high - low).clamp_min(1e-12)
    variance = lengths.square() / lengths.square().sum().clamp_min(1e-300)
    return EmbeddingFilters(tiles.unflatten(1, (*kernel.shape[2:], kernel.shape[1])), variance[:count])
