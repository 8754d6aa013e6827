"""What the training loop knows of an objective: a loss with its own networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail.data.loader import Batch

# What an objective makes of a batch: tensors by name, whose first dimension counts the pictures, so that the loop can
# cut a batch into parts without knowing what is in it.
Inputs = dict[str, Tensor]


class ObjectiveOutput(NamedTuple):
    """A scalar loss, the mean over the pictures, and scalars worth reporting (means too)."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Objective(nn.Module):
    """A loss together with every network it trains.

    Attributes:
        model: the one that is evaluated, averaged and carried away.
    """

    model: nn.Module

    def prepare(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """The whole batch, on the device of the parameters and ready for `forward`.

        What mixes pictures with each other belongs here and not in `forward`, which may see the batch in parts.

        Args:
            generator: for every random choice; seeded by the loop from (seed, step), on the CPU.
        """
        raise NotImplementedError

    def forward(self, inputs: Inputs, step: int) -> ObjectiveOutput:
        """Loss of some or all pictures of a batch.

        The mean of the losses of a batch's parts, weighted by their number of pictures, is the loss of the batch.

        Args:
            inputs: from `prepare`, all of it or a slice of every tensor.
            step: number of the update, counted from 0.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after update number `step`, for whatever an objective moves by other means than gradients."""

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What makes one evaluation better than another: compared in order, larger is better."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
