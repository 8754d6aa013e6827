"""The arithmetic inside one update: gradients of a batch, in parts where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vitrail.objectives.base import Inputs, Objective, ObjectiveOutput

Forward = Callable[[Inputs, int], ObjectiveOutput]


def compiled(objective: Objective, compile_it: bool) -> Forward:
    """The objective as it is called by the loop: through torch.compile, or plainly."""
    return torch.compile(objective) if compile_it else objective


def split_inputs(inputs: Inputs, num_parts: int) -> Iterator[tuple[Inputs, float]]:
    """Cut a batch into at most `num_parts` parts; with each, its share of the batch's pictures."""
    size = len(next(iter(inputs.values())))
    chunks = {name: tensor.chunk(num_parts) for name, tensor in inputs.items()}
    for number in range(len(next(iter(chunks.values())))):
        part = {name: pieces[number] for name, pieces in chunks.items()}
        yield part, len(next(iter(part.values()))) / size


def accumulate_gradients(
    forward: Forward, inputs: Inputs, step: int, num_parts: int, autocast: AbstractContextManager[object]
) -> dict[str, Tensor]:
    """Add the gradients of the batch's mean loss to the parameters, one part of the batch after the other.

    Args:
        inputs: of the whole batch; parts of unequal size are weighted by their number of pictures.
        num_parts: 1 for all at once.
    Returns:
        "loss" and the objective's metrics for the whole batch, scalar tensors.
    """
    totals: dict[str, Tensor] = {}
    for part, share in split_inputs(inputs, num_parts):
        with autocast:
            loss, metrics = forward(part, step)
        (loss * share).backward()
        for name, value in {"loss": loss, **metrics}.items():
            weighted = value.detach() * share
            totals[name] = totals[name] + weighted if name in totals else weighted
    return totals
