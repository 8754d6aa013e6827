"""The module that other engines convert: bytes in, float32 answers out, nothing of torch alone in it."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from vitrail.data.config import Preprocessing
from vitrail.engines.config import Answer
from vitrail.engines.folded_patches import Normalization
from vitrail.engines.folding import FoldedViT, can_fold
from vitrail.models.build import Model
from vitrail.models.vit import VisionTransformer


class NormalizedModel(nn.Module):
    """A model as it is, behind the normalisation of its pictures."""

    def __init__(self, model: Model, preprocessing: Preprocessing, answer: Answer) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.normalize, self.answer = Normalization(preprocessing), answer

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 -> (batch, classes or features) float32."""
        inputs = self.normalize(images)
        if self.answer == "features":
            return self.model.forward_head(self.model.forward_features(inputs), pre_logits=True).float()
        return self.model(inputs).float()


def module_for_export(model: Model, preprocessing: Preprocessing, answer: Answer) -> tuple[nn.Module, str]:
    """What is converted, in float32, and its way: "folded" or "plain"."""
    if can_fold(model):
        assert isinstance(model, VisionTransformer)
        return FoldedViT(model, preprocessing, answer=answer, attention="fused"), "folded"
    return NormalizedModel(model, preprocessing, answer), "plain"
