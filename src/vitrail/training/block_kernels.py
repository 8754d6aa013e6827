"""The kernels of block_kernels.c: compiled once for each machine, checked before they are believed."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from vitrail.native import compiled_library

Gelu = Literal["gelu", "gelu_tanh", "quick_gelu"]
_KINDS = {"gelu": 0, "gelu_tanh": 1, "quick_gelu": 2}  # as numbered in C
LANES = 16  # what all widths are multiples of
_NEEDS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma")


class BlockKernels:
    """The functions of the library, on contiguous CPU tensors.

    Args:
        library: compiled from block_kernels.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def attention_forward(self, qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
        """qkv (batch, tokens, 3 * width) bfloat16 -> heads side by side (batch, tokens, width) bfloat16, and the
        logarithms of the softmax's denominators (batch, heads, tokens) float32."""
        batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        heads = qkv.new_empty(batch, tokens, width)
        lse = torch.empty(batch, num_heads, tokens)
        self._call("attention_forward", qkv, heads, lse, batch, tokens, num_heads, width // num_heads)
        return heads, lse

    def attention_backward(self, qkv: Tensor, heads: Tensor, lse: Tensor, heads_grad: Tensor) -> Tensor:
        """The gradient of qkv from that of `heads`, both bfloat16 and of the shapes above."""
        grad = torch.empty_like(qkv)
        batch, num_heads, tokens = lse.shape
        head_dim = heads.shape[-1] // num_heads
        self._call("attention_backward", qkv, heads, lse, heads_grad, grad, batch, tokens, num_heads, head_dim)
        return grad

    def norm_forward(
        self, stream: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """stream (rows, width) float32, branch bfloat16 -> their sum, its layer norm in bfloat16, and of each row the
        mean and the reciprocal standard deviation, (rows,)."""
        rows, width = stream.shape
        sums = stream if branch is None else torch.empty_like(stream)
        normed = torch.empty(rows, width, dtype=torch.bfloat16)
        mean, rstd = torch.empty(rows), torch.empty(rows)
        arrays = (stream, branch, weight, bias, ctypes.c_float(eps), sums, normed, mean, rstd)
        self._call("norm_forward", *arrays, rows, width)
        return sums, normed, mean, rstd

    def norm_backward(
        self,
        normed_grad: Tensor,
        sums: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor,
        passing: Tensor,
        stream_grad: Tensor,
        branch_grad: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """stream_grad = passing + what comes back through the norm, (rows, width) float32; the two may be one tensor.
        branch_grad (bfloat16), where one is given, gets a copy. Returns the gradients of weight and bias, (width,)."""
        rows, width = sums.shape
        found = torch.zeros(torch.get_num_threads(), 2, width)  # OpenMP may start fewer threads than it is asked for
        arrays = (normed_grad, sums, mean, rstd, weight, passing, stream_grad, branch_grad, found)
        self._call("norm_backward", *arrays, rows, width)
        weight_grad, bias_grad = found.sum(0)
        return weight_grad, bias_grad

    def gelu_forward(self, hidden: Tensor, active: Tensor, kind: Gelu) -> None:
        """active = GELU(hidden), both bfloat16; kinds as in `layers.mlp.make_activation`."""
        self._call("gelu_forward", hidden, active, hidden.numel(), _KINDS[kind])

    def gelu_backward(self, hidden: Tensor, grad: Tensor, active: Tensor, kind: Gelu) -> Tensor:
        """grad (rows, width) of the active features becomes that of the hidden ones, in place; `active` is computed
        again. All bfloat16. Returns the sum of the gradients over the rows, (width,) float32."""
        rows, width = hidden.shape
        sums = torch.zeros(torch.get_num_threads(), width)
        self._call("gelu_backward", hidden, grad, active, sums, rows, width, _KINDS[kind])
        return sums.sum(0)

    def _call(self, name: str, *arguments: Tensor | int | ctypes.c_float | None) -> None:
        if any(isinstance(argument, FakeTensor) for argument in arguments):
            return  # has a shape and no numbers: someone counts memory (`memory.py`)
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, int):
                values.append(ctypes.c_long(argument))
            elif isinstance(argument, Tensor):
                assert argument.is_contiguous()
                values.append(ctypes.c_void_p(argument.data_ptr()))
            else:
                values.append(argument)
        if getattr(self._library, name)(*values, torch.get_num_threads()) == 1 and name.startswith("attention"):
            raise MemoryError(f"no memory for {name}: take a smaller batch_size, or fewer num_threads")


@functools.cache
def block_kernels() -> BlockKernels | None:
    """The kernels; None where the processor has not what they need, nothing can compile them, or what was compiled does
    not compute what it should."""
    library = compiled_library(Path(__file__).with_suffix(".c"), _NEEDS)
    if library is None:
        return None
    kernels = BlockKernels(library)
    return kernels if _is_right(kernels) else None


def _is_right(kernels: BlockKernels) -> bool:
    """Whether the kernels do on a few numbers what torch does: a compiler may be broken."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        draw = torch.Generator().manual_seed(0)
        qkv = torch.randn(2, 19, 3 * 64, generator=draw).bfloat16()
        query, key, value = qkv.float().view(2, 19, 3, 2, 32).permute(2, 0, 3, 1, 4).unbind(0)
        expected = ((query @ key.mT / 32**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
        heads, lse = kernels.attention_forward(qkv, 2)
        stream = torch.randn(5, 48, generator=draw)
        _, normed, _, _ = kernels.norm_forward(stream, None, torch.ones(48), torch.zeros(48), 1e-6)
        active = torch.empty_like(qkv)
        kernels.gelu_forward(qkv, active, "gelu")
        back = kernels.attention_backward(qkv, heads, lse, heads)
        return bool(
            torch.allclose(heads.float(), expected, atol=0.02)
            and torch.allclose(normed.float(), F.layer_norm(stream, (48,)), atol=0.02)
            and torch.allclose(active.float(), F.gelu(qkv.float()), atol=0.02)
            and back.isfinite().all()
        )
