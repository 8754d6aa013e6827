"""What the answer loses when a part of the picture is covered: the honest check of every other map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BATCH = 16


@dataclass(frozen=True)
class Occlusion:
    """Attributes:
    lost: (B, rows, columns) float64: the probability of the class less what is left of it while this square is covered;
        below 0 where the square had spoken against the class.
    classes: (B,) int64: the classes asked about.
    size, stride: of the squares, in pixels.
    """

    lost: Tensor
    classes: Tensor
    size: int
    stride: int


@torch.no_grad()
def occlusion(
    model: nn.Module, images: Tensor, size: int, stride: int | None = None, classes: Tensor | None = None
) -> Occlusion:
    """Cover each square in turn with the mean colour of the preprocessing (0 once normalised) and ask again.

    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2. It costs as many
    answers as there are squares. At the right and lower edges squares are moved in, so that each covers as much.

    Args:
        model: (B, channels, height, width) -> (B, classes), in evaluation mode.
        images: normalised.
        size: side of a square in pixels.
        stride: from one to the next; None: as the size.
        classes: (B,); None: each picture's most probable.

    Raises:
        ValueError: a size or stride that does not fit the pictures.
    """
    height, width = images.shape[-2:]
    stride = size if stride is None else stride
    if not 1 <= size <= min(height, width):
        raise ValueError(f"squares of {size} pixels do not fit pictures of {height} x {width}")
    if stride < 1:
        raise ValueError(f"a stride of {stride} pixels goes nowhere")
    tops, lefts = (_starts(side, size, stride) for side in (height, width))
    own = model(images).double().softmax(1)
    asked = own.argmax(1) if classes is None else classes
    lost = torch.zeros(len(images), len(tops), len(lefts), dtype=torch.float64, device=images.device)
    squares = [
        (index, row, column) for index in range(len(images)) for row in range(len(tops)) for column in range(len(lefts))
    ]
    for begin in range(0, len(squares), _BATCH):
        part = squares[begin : begin + _BATCH]
        covered = torch.stack([images[index] for index, _, _ in part])
        for picture, (_, row, column) in zip(covered, part, strict=True):
            picture[:, tops[row] : tops[row] + size, lefts[column] : lefts[column] + size] = 0
        answers = model(covered).double().softmax(1)
        for (index, row, column), answer in zip(part, answers, strict=True):
            lost[index, row, column] = own[index, asked[index]] - answer[asked[index]]
    return Occlusion(lost, asked, size, stride)


def _starts(side: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, side - size + 1, stride))
    return starts if starts[-1] == side - size else [*starts, side - size]
