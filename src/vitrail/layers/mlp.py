"""The two-layer perceptron of an encoder block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.initialization import xavier_uniform_


def make_activation(name: str) -> nn.Module:
    """The non-linearity of this name: "gelu" (exact, erf), "gelu_tanh" (Google's weights expect it), "quick_gelu"
    (OpenAI's CLIP) or "relu".

    Raises:
        ValueError: any other name.
    """
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    if name == "quick_gelu":
        return QuickGelu()
    if name == "relu":
        return nn.ReLU()
    raise ValueError(f'activation {name!r} is none of "gelu", "gelu_tanh", "quick_gelu", "relu"')


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), which is within 0.021 of GELU (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Any shape -> the same."""
        return hidden * torch.sigmoid(1.702 * hidden)


class GatedSilu(nn.Module):
    """silu(first half) * second half of the features."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., 2 * features) -> (..., features)."""
        gate, value = hidden.chunk(2, dim=-1)
        return F.silu(gate) * value


class Mlp(nn.Module):
    """Linear, activation, dropout, Linear, dropout (Dosovitskiy et al. 2021, eq. 3).

    With the activation "swiglu" the first layer is twice as wide, and silu of its first half multiplies the second
    (Shazeer 2020, "GLU variants improve Transformer").

    Args:
        width: features of the tokens that come in and go out.
        hidden_size: features in between.
        activation: see `make_activation`, or "swiglu".
        dropout_rate: of both dropouts.
    """

    def __init__(self, width: int, hidden_size: int, *, activation: str = "gelu", dropout_rate: float = 0.0) -> None:
        super().__init__()
        is_gated = activation == "swiglu"
        self.fc1 = nn.Linear(width, 2 * hidden_size if is_gated else hidden_size)
        self.act = GatedSilu() if is_gated else make_activation(activation)
        self.drop1 = nn.Dropout(dropout_rate)
        self.fc2 = nn.Linear(hidden_size, width)
        self.drop2 = nn.Dropout(dropout_rate)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Xavier uniform kernels and biases of standard deviation 1e-6, as the reference has them."""
        num_kernels = 2 if isinstance(self.act, GatedSilu) else 1
        for layer, kernels in ((self.fc1, num_kernels), (self.fc2, 1)):
            xavier_uniform_(layer.weight, generator, num_kernels=kernels)
            nn.init.normal_(layer.bias, std=1e-6, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        hidden = self.drop1(self.act(self.fc1(tokens)))
        return self.drop2(self.fc2(hidden))
