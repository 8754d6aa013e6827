"""The two-layer perceptron of an encoder block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.layers.initialization import xavier_uniform_


def make_activation(name: str) -> nn.Module:
    """The non-linearity of this name: "gelu" (exact, erf), "gelu_tanh" (Google's weights expect it) or "relu".

    Raises:
        ValueError: any other name.
    """
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    if name == "relu":
        return nn.ReLU()
    raise ValueError(f'activation {name!r} is none of "gelu", "gelu_tanh", "relu"')


class Mlp(nn.Module):
    """Linear, activation, dropout, Linear, dropout (Dosovitskiy et al. 2021, eq. 3).

    Args:
        width: features of the tokens that come in and go out.
        hidden_size: features in between.
        activation: see `make_activation`.
        dropout_rate: of both dropouts.
    """

    def __init__(self, width: int, hidden_size: int, *, activation: str = "gelu", dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_size)
        self.act = make_activation(activation)
        self.drop1 = nn.Dropout(dropout_rate)
        self.fc2 = nn.Linear(hidden_size, width)
        self.drop2 = nn.Dropout(dropout_rate)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Xavier uniform kernels and biases of standard deviation 1e-6, as the reference has them."""
        for layer in (self.fc1, self.fc2):
            xavier_uniform_(layer.weight, generator)
            nn.init.normal_(layer.bias, std=1e-6, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        hidden = self.drop1(self.act(self.fc1(tokens)))
        return self.drop2(self.fc2(hidden))
