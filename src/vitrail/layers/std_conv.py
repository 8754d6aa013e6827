"""Convolutions whose kernels are standardised, and the padding of TensorFlow: what BiT and the hybrids are made of."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.initialization import lecun_normal_, zero_bias_


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Cells (before, after) that TensorFlow's "SAME" adds to a side, so that ceil(size / stride) results come out.

    The odd cell goes to the end: 224 cells under a kernel of 7 with stride 2 get 2 before and 3 after.
    """
    total = max(0, (-(-size // stride) - 1) * stride + kernel_size - size)
    return total // 2, total - total // 2


def pad_same(features: Tensor, kernel_size: int, stride: int, value: float = 0.0) -> Tensor:
    """(..., height, width) -> the same with `same_padding` on both sides, filled with `value`."""
    rows = same_padding(features.shape[-2], kernel_size, stride)
    columns = same_padding(features.shape[-1], kernel_size, stride)
    return F.pad(features, (*columns, *rows), value=value) if any((*rows, *columns)) else features


def standardize(kernel: Tensor, eps: float, eps_under: Literal["std", "variance"]) -> Tensor:
    """Every output channel of a kernel with mean 0 and about unit variance (Qiao et al. 2019).

    Mean and (biased) standard deviation are over input channels, height and width. Public code differs in where the
    small number stands: (w - mean) / (std + 1e-5) in vision_transformer's hybrids, (w - mean) / sqrt(var + 1e-10) in
    BiT (Kolesnikov et al. 2020), 1e-8 in its place in timm.

    Args:
        kernel: (out, in, height, width).
        eps: the small number.
        eps_under: what it is added to.
    """
    axes = (1, 2, 3)
    centred = kernel - kernel.mean(axes, keepdim=True)
    if eps_under == "std":
        return centred / (kernel.std(axes, correction=0, keepdim=True) + eps)
    return centred * torch.rsqrt(kernel.var(axes, correction=0, keepdim=True) + eps)


class StandardizedConv2d(nn.Conv2d):
    """A convolution with a kernel standardised at every call; what is stored is the kernel before that.

    Args:
        in_channels, out_channels: of the feature maps.
        kernel_size, stride: of both axes.
        padding: "same" as TensorFlow pads (more at the end), or so many cells on all four sides.
        eps, eps_under: see `standardize`; the defaults are those of vision_transformer's hybrids, BiT's are 1e-10 and
            "variance".
        bias: whether there is one; no published model has.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | Literal["same"] = "same",
        eps: float = 1e-5,
        eps_under: Literal["std", "variance"] = "std",
        bias: bool = False,
    ) -> None:
        explicit = 0 if padding == "same" else padding
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=explicit, bias=bias)
        self.pads_same, self.num_padded = padding == "same", explicit
        self.eps = eps
        self.eps_under: Literal["std", "variance"] = eps_under

    def initialize(self, generator: torch.Generator | None) -> None:
        """LeCun normal kernel, as Flax has it; zero bias."""
        lecun_normal_(self.weight, generator)
        zero_bias_(self)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, rows, columns); "same": ceil(side / stride)."""
        if self.pads_same:
            features = pad_same(features, self.kernel_size[0], self.stride[0])
        kernel = standardize(self.weight, self.eps, self.eps_under)
        return F.conv2d(features, kernel, self.bias, self._stride(features), self.padding)

    def _stride(self, features: Tensor) -> tuple[int, int]:
        """`stride`, but 1 along an axis where the kernel fits in one place only, and the stride says nothing.

        There torch 2.14 reads memory that nobody has written: on CPUs with AVX512-BF16 the gradient of a bfloat16
        kernel of 3x3 and stride 2 on features one cell wide is now and then not a number.
        """
        rows, columns = (
            1 if side + 2 * self.num_padded == self.kernel_size[0] else self.stride[0] for side in features.shape[-2:]
        )
        return rows, columns


class MaxPoolSame(nn.Module):
    """Maximum over windows, padded as TensorFlow pads with "SAME": padding never wins."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, ceil(height / stride), ceil(width / stride))."""
        padded = pad_same(features, self.kernel_size, self.stride, value=float("-inf"))
        return F.max_pool2d(padded, self.kernel_size, self.stride)
