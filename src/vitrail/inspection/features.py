"""Which patches the model finds alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.models.vit import VisionTransformer


@dataclass(frozen=True)
class PatchColours:
    """The first three principal components of the patches' features as colours.

    Attributes:
        colours: (B, grid height, grid width, 3) float64, each channel stretched to 0 to 1 over all B pictures.
        variance: (3,) float64: each component's share of the features' variance.
    """

    colours: Tensor
    variance: Tensor


@torch.no_grad()
def patch_colours(model: VisionTransformer, images: Tensor) -> PatchColours:
    """Patches of one colour have like features, in one picture and across pictures (Oquab et al. 2023, "DINOv2", figure
    1; without its first threshold). The sign of a component is chosen, so that one model gives one picture.

    Args:
        model: in evaluation mode.
        images: (B, channels, height, width), normalised.
    """
    config = model.config
    patches = model.forward_features(images)[:, config.num_prefix_tokens :].double().flatten(0, 1)
    centred = patches - patches.mean(0)
    _, lengths, components = torch.linalg.svd(centred, full_matrices=False)
    count = min(3, len(components))
    components = components[:count]
    components = components * components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    places = torch.zeros(len(patches), 3, dtype=torch.float64, device=patches.device)
    places[:, :count] = centred @ components.t()
    low, high = places.amin(0), places.amax(0)
    colours = (places - low) / (high - low).clamp_min(1e-12)
    variance = torch.zeros(3, dtype=torch.float64, device=patches.device)
    variance[:count] = (lengths.square() / lengths.square().sum().clamp_min(1e-300))[:count]
    return PatchColours(colours.view(len(images), *config.grid, 3), variance)
