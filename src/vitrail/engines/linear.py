"""Linear layers that learn no more: weights as they are, or packed as oneDNN's kernels like them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.engines.products import deposit


class Linear(nn.Module):
    """x weight^T + bias, of weights that were multiplied out in float64.

    Args:
        weight: (features out, features in).
        bias: (features out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """In which it multiplies, and wants its input."""
        return self.weight.dtype

    def forward(self, features: Tensor) -> Tensor:
        """(..., features in) -> (..., features out)."""
        return F.linear(features, self.weight, self.bias)


class PackedLinear(nn.Module):
    """The same in oneDNN's own layout, with an activation behind it where that one can do it.

    Args:
        linear: whose weights it takes.
        rows: about how many the inputs will have; it decides the layout, not the answer.
        activation: see `fused_activation`.
    """

    ticket: Tensor

    def __init__(self, linear: Linear, rows: int, activation: tuple[str, str] = ("none", "none")) -> None:
        super().__init__()
        self.dtype = linear.dtype
        self.bias = linear.bias
        self.size = len(linear.weight)
        self.activation = activation
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.register_buffer("ticket", deposit(self, packed))

    def forward(self, features: Tensor) -> Tensor:
        """(..., features in) -> (..., features out)."""
        return torch.ops.vitrail.linear(features, self.ticket, self.bias, self.size, *self.activation)


def fused_activation(act: nn.Module) -> tuple[str, str] | None:
    """oneDNN's name of an activation that it computes behind a product; None: it does not."""
    if isinstance(act, nn.GELU):
        return "gelu", act.approximate
    return ("relu", "none") if isinstance(act, nn.ReLU) else None


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch on this machine has oneDNN's products of float32 or bfloat16."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
