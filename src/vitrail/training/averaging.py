"""Polyak averaging: a second set of weights that follows the trained one slowly and is evaluated in its place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def averaging_factor(step: int, rate: float) -> float:
    """How much of the average is kept at update number `step`, counted from 0: min(rate, (1 + step) / (10 + step)).

    The warm-up lets the average leave the random start within a few steps (as TensorFlow's ExponentialMovingAverage).
    """
    return min(rate, (1 + step) / (10 + step))


class Averaged:
    """average <- factor * average + (1 - factor) * weights, after every update (Polyak and Juditsky 1992;
    Dosovitskiy et al. 2021, section 4.1, with factor 0.9999).

    Args:
        model: whose weights are followed; buffers with fractions are averaged too, others copied.
        rate: the factor once warmed up, in [0, 1).

    Attributes:
        model: a model of its own that holds the average; evaluate and keep this one.
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"averaging rate {rate} is not in [0, 1)")
        self.rate = rate
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.model.parameters())
        self._weights: list[Tensor] = list(model.parameters())
        self._followed = model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after update number `step`, counted from 0."""
        share = 1 - averaging_factor(step, self.rate)
        torch._foreach_lerp_(self._averages, self._weights, share)
        for average, buffer in zip(self.model.buffers(), self._followed.buffers(), strict=True):
            if average.is_floating_point():
                average.lerp_(buffer, share)
            else:
                average.copy_(buffer)
