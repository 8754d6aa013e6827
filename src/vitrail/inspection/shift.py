"""How much the answer and the features change when the picture moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pictures looked at together: many large ones leave the processor's caches (BiT-R50x1 at 480 pixels: 16 at once take
# 1.4 times as long as 2), and small ones are quicker together.
_MOST, _PIXELS = 16, 2**19


@dataclass(frozen=True)
class ShiftResponse:
    """What shifts to the right do, each row for one shift.

    Attributes:
        shifts: in pixels.
        moved: (shifts, B) float64: how much of the probability goes to other classes: half the sum of the absolute
            differences to the answer on the picture where it was (total variation), 0 to 1. None: a model without a
            head.
        same: (shifts, B) bool: whether the most probable class is still the same. None: a model without a head.
        turned: (shifts, B) float64: cosine distance, 0 to 2, between the features before the head (pre-logits) and
            those of the picture where it was. None: a classifier that shows no features.
    """

    shifts: tuple[int, ...]
    moved: Tensor | None
    same: Tensor | None
    turned: Tensor | None


@torch.no_grad()
def shift_response(model: nn.Module, images: Tensor, shifts: Sequence[int] = tuple(range(1, 17))) -> ShiftResponse:
    """Answers to pictures moved to the right by some pixels; their left edge is repeated in what becomes free.

    A Vision Transformer sees patches: shifts by whole ones change the tokens least, which shows as dips of the patch
    size. Any classifier can be asked.

    Args:
        model: (B, channels, height, width) -> (B, classes), in evaluation mode. Where it has `forward_features` and
            `forward_head` as the models of this package, its features are compared too.
        images: normalised.

    Raises:
        ValueError: a shift that is negative or leaves nothing of the picture.
    """
    width = images.shape[-1]
    for shift in shifts:
        if not 0 <= shift < width:
            raise ValueError(f"a shift of {shift} pixels leaves nothing of a picture {width} pixels wide")
    size = min(_MOST, max(1, _PIXELS // (images.shape[-2] * width)))
    pairs = [(place, index) for place in range(len(shifts)) for index in range(len(images))]
    own_answers, own_features = _look(model, images)
    moved, same, turned = [], [], []
    for begin in range(0, len(pairs), size):
        part = pairs[begin : begin + size]
        answers, features = _look(model, torch.stack([shifted(images[index], shifts[place]) for place, index in part]))
        of = [index for _, index in part]
        if answers is not None and own_answers is not None:
            moved.append((answers - own_answers[of]).abs().sum(1) / 2)
            same.append(answers.argmax(1) == own_answers[of].argmax(1))
        if features is not None and own_features is not None:
            turned.append((1 - F.cosine_similarity(features, own_features[of], dim=1)).clamp_min(0))
    return ShiftResponse(tuple(shifts), *(_by_shift(parts, len(images)) for parts in (moved, same, turned)))


def _look(model: Any, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(B, classes) probabilities and (B, num_features) features, in float64; None for those that there are not."""
    if not hasattr(model, "forward_head"):
        return model(images).double().softmax(1), None
    features = model.forward_features(images)
    answers = model.forward_head(features).double().softmax(1) if model.config.num_classes else None
    return answers, model.forward_head(features, pre_logits=True).double()


def _by_shift(parts: Sequence[Tensor], num_images: int) -> Tensor | None:
    return torch.cat(list(parts)).view(-1, num_images) if parts else None


def shifted(image: Tensor, pixels: int) -> Tensor:
    """(channels, height, width) moved to the right, the left edge repeated."""
    return F.pad(image[None], (pixels, 0, 0, 0), mode="replicate")[0, ..., : image.shape[-1]]
