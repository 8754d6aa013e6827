"""Masked patch prediction: what is under the hidden patches?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.loader import Batch
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.base import Inputs, ObjectiveOutput
from vitrail.objectives.config import MaskedPatchesConfig
from vitrail.objectives.patch_prediction import PatchPrediction


def draw_corruption(
    batch_size: int, num_patches: int, config: MaskedPatchesConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which patch embeddings are corrupted, and by what (Devlin et al. 2019, section 3.1, on patches).

    Args:
        generator: on the CPU.
    Returns:
        places: (batch, K) int64, K different patches of each picture, K = round(corrupted_share * num_patches), at
            least 1. replacements: (batch, K) int64, the patch of the same picture whose embedding comes there: itself
            where it is kept, another one where it is replaced, num_patches for the [mask] embedding.
    """
    count = max(1, round(config.corrupted_share * num_patches))
    places = torch.rand(batch_size, num_patches, generator=generator).argsort(dim=1)[:, :count]
    # Another patch, never the same: 1 to num_patches - 1 further on, round the end.
    further = 1 + torch.rand(batch_size, count, generator=generator).mul_(num_patches - 1).long()
    kind = torch.rand(batch_size, count, generator=generator)
    others = (places + further.clamp_(max=max(0, num_patches - 1))) % num_patches
    is_masked = kind < config.mask_rate
    is_replaced = ~is_masked & (kind < config.mask_rate + config.replace_rate)
    replacements = torch.where(is_masked, num_patches, torch.where(is_replaced, others, places))
    return places, replacements


class MaskedPatches(PatchPrediction):
    """Predict the corrupted patches of a picture from what is left of it (Dosovitskiy et al. 2021, appendix B.1.2).

    The paper does not say where a random patch embedding is taken from; here it is of the same picture, so that the
    loss of a batch does not depend on how it is cut into parts.

    Args and errors as `PatchPrediction`.
    """

    def __init__(self, model: VisionTransformer, config: MaskedPatchesConfig, preprocessing: Preprocessing) -> None:
        super().__init__(model, preprocessing, config.target)
        self.config = config
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.config.width))

    def prepare(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """{"images", "places", "replacements", "targets"}: as `draw_corruption`, and the targets of the places."""
        pictures = batch.images.to(self.device, non_blocking=True)
        num_patches = self.model.config.num_patches
        places, replacements = draw_corruption(len(pictures), num_patches, self.config, generator)
        places, replacements = places.to(self.device), replacements.to(self.device)
        targets = self.targets_of(pictures)
        return {
            "images": normalize(pictures, self.preprocessing),
            "places": places,
            "replacements": replacements,
            "targets": targets.gather(1, places.unsqueeze(2).expand(-1, -1, targets.shape[2])),
        }

    def corrupt(self, patches: Tensor, places: Tensor, replacements: Tensor) -> Tensor:
        """Embedded patches (batch, patches, width) -> the same with what `draw_corruption` says put into the places."""
        width = patches.shape[2]
        choice = torch.cat([patches, self.mask_token.to(patches.dtype).expand(len(patches), 1, width)], dim=1)
        put = choice.gather(1, replacements.unsqueeze(2).expand(-1, -1, width))
        return patches.scatter(1, places.unsqueeze(2).expand(-1, -1, width), put)

    def forward(self, inputs: Inputs, step: int) -> ObjectiveOutput:
        """Loss of the corrupted patches alone, kept ones included."""
        model, places = self.model, inputs["places"]
        patches = self.corrupt(model.patch_embed(inputs["images"]), places, inputs["replacements"])
        tokens = model.encode(model.assemble(patches))[:, model.config.num_prefix_tokens :]
        corrupted = tokens.gather(1, places.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        return self.loss_of(corrupted, inputs["targets"])
