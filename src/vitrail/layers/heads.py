"""What stands between the pooled features and the logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.layers.initialization import lecun_normal_, zero_bias_


class PreLogits(nn.Module):
    """The hidden layer of the pre-training head: Linear and tanh (Dosovitskiy et al. 2021, section 3.1)."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, hidden_size)

    def initialize(self, generator: torch.Generator | None) -> None:
        """LeCun normal kernel, zero bias."""
        lecun_normal_(self.fc.weight, generator)
        zero_bias_(self.fc)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) -> (batch, hidden_size), within -1 and 1."""
        return torch.tanh(self.fc(features))


class ClassifierHead(nn.Linear):
    """The last linear layer, which starts at zero: every class begins with the logit bias_init.

    Args:
        width: features that come in.
        num_classes: logits that go out.
        bias_init: starting value of every bias; about -log(classes) helps a sigmoid loss (Beyer et al., big_vision).
    """

    def __init__(self, width: int, num_classes: int, *, bias_init: float = 0.0) -> None:
        super().__init__(width, num_classes)
        self.bias_init = bias_init

    def initialize(self, generator: torch.Generator | None) -> None:
        """Zero kernel, constant bias; nothing is drawn."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.bias_init)
