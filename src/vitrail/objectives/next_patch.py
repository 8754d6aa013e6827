"""Next-patch prediction: how does the picture go on?"""

from __future__ import annotations

import torch

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.loader import Batch
from vitrail.errors import ConfigError
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.base import Inputs, ObjectiveOutput
from vitrail.objectives.config import NextPatchConfig
from vitrail.objectives.patch_prediction import PatchPrediction


class NextPatch(PatchPrediction):
    """Predict each patch from those before it in raster order, with causal attention.

    Chen et al. 2020, "Generative pretraining from pixels" (iGPT), with patches for pixels. Class and register tokens
    stand before all patches, so they see none and carry nothing from one patch to another; a class token learns
    nothing here, and features are best pooled from the patches. The first patch is not predicted. The attention is
    causal in this loss alone: the model itself goes on with full attention.

    Args and errors as `PatchPrediction`; ConfigError too for a model of a single patch or with axial attention.
    """

    def __init__(self, model: VisionTransformer, config: NextPatchConfig, preprocessing: Preprocessing) -> None:
        super().__init__(model, preprocessing, config.target)
        if model.config.attention == "axial":
            raise ConfigError("next-patch prediction needs causal attention, which model.attention 'axial' cannot be")
        if model.config.num_patches < 2:
            raise ConfigError("a picture of a single patch has no next one; make model.patch_size smaller")
        self.config = config

    def prepare(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """{"images", "targets"}: the targets of every patch but the first."""
        pictures = batch.images.to(self.device, non_blocking=True)
        targets = self.targets_of(pictures)[:, 1:]
        return {"images": normalize(pictures, self.preprocessing), "targets": targets.contiguous()}

    def forward(self, inputs: Inputs, step: int) -> ObjectiveOutput:
        """Mean loss of all patches but the first."""
        model = self.model
        tokens = model.encode(model.embed(inputs["images"]), is_causal=True)
        return self.loss_of(tokens[:, model.config.num_prefix_tokens : -1], inputs["targets"])
