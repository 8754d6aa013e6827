"""How much the answer changes when the picture moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BATCH = 16


@dataclass(frozen=True)
class ShiftResponse:
    """What shifts to the right do, each row for one shift.

    Attributes:
        shifts: in pixels.
        moved: (shifts, B) float64: how much of the probability goes to other classes: half the sum of the absolute
            differences to the answer on the picture where it was (total variation), 0 to 1.
        same: (shifts, B) bool: whether the most probable class is still the same.
    """

    shifts: tuple[int, ...]
    moved: Tensor
    same: Tensor


@torch.no_grad()
def shift_response(model: nn.Module, images: Tensor, shifts: Sequence[int] = tuple(range(1, 17))) -> ShiftResponse:
    """Answers to pictures moved to the right by some pixels; their left edge is repeated in what becomes free.

    A Vision Transformer sees patches: shifts by whole ones change the tokens least, which shows as dips of the patch
    size. Any classifier can be asked.

    Args:
        model: (B, channels, height, width) -> (B, classes), in evaluation mode.
        images: normalised.

    Raises:
        ValueError: a shift that is negative or leaves nothing of the picture.
    """
    width = images.shape[-1]
    for shift in shifts:
        if not 0 <= shift < width:
            raise ValueError(f"a shift of {shift} pixels leaves nothing of a picture {width} pixels wide")
    own = model(images).double().softmax(1)
    pairs = [(place, index) for place in range(len(shifts)) for index in range(len(images))]
    moved = torch.zeros(len(shifts), len(images), dtype=torch.float64, device=images.device)
    same = torch.zeros(len(shifts), len(images), dtype=torch.bool, device=images.device)
    for begin in range(0, len(pairs), _BATCH):
        part = pairs[begin : begin + _BATCH]
        answers = model(torch.stack([shifted(images[index], shifts[place]) for place, index in part]))
        for (place, index), answer in zip(part, answers.double().softmax(1), strict=True):
            moved[place, index] = (answer - own[index]).abs().sum() / 2
            same[place, index] = answer.argmax() == own[index].argmax()
    return ShiftResponse(tuple(shifts), moved, same)


def shifted(image: Tensor, pixels: int) -> Tensor:
    """(channels, height, width) moved to the right, the left edge repeated."""
    return F.pad(image[None], (pixels, 0, 0, 0), mode="replicate")[0, ..., : image.shape[-1]]
