"""What the model would answer if it ended earlier."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.models.vit import VisionTransformer


@torch.no_grad()
def logit_lens(model: VisionTransformer, images: Tensor) -> Tensor:
    """The final norm, pooling and head on what each block gives: (depth, B, classes).

    After nostalgebraist 2020, "interpreting GPT: the logit lens". The last row is the model's own answer. The head was
    learnt for the last block alone, so an earlier one says what is there in a form that the head can read, no more.

    Args:
        model: in evaluation mode, with a head.
        images: (B, channels, height, width), normalised.

    Raises:
        ValueError: a model without a head.
    """
    if model.config.num_classes == 0:
        raise ValueError("the model has no head, so no depth answers anything")
    stages = model.forward_intermediates(images)
    depths = [stages[f"blocks.{index}"] for index in range(model.config.depth)]
    return torch.stack([model.forward_head(model.norm(tokens)) for tokens in depths])
