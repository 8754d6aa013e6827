"""The kernels of block_kernels.c: compiled once for each machine, checked before they are believed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
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
# Above this the weights of one head, which each thread has its own of, would take more than 50 MB. At 577 and 1,025
# tokens an update still took half the time of the plain one.
MOST_TOKENS = 2048
_NEEDS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma")


class BlockKernels:
    """The functions of the library, on contiguous CPU tensors.

    Args:
        library: compiled from block_kernels.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._functions: dict[str, Any] = {}

    def attention_forward(self, qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
        """qkv (batch, tokens, 3 * width) bfloat16 -> heads side by side (batch, tokens, width) bfloat16, and the
        logarithms of the softmax's denominators (batch, heads, tokens) float32."""
        lse = torch.empty(qkv.shape[0], num_heads, qkv.shape[1])
        return self._attend(qkv, lse, num_heads, (qkv.shape[2] // 3 // num_heads) ** -0.5), lse

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """The same for whoever learns nothing, with the queries scaled already: the heads side by side alone."""
        return self._attend(qkv, None, num_heads, 1.0)

    def _attend(self, qkv: Tensor, lse: Tensor | None, num_heads: int, scale: float) -> Tensor:
        batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        heads = qkv.new_empty(batch, tokens, width)
        self._call("attention_forward", qkv, heads, lse, scale, batch, tokens, num_heads, width // num_heads)
        return heads

    def attention_backward(self, qkv: Tensor, heads: Tensor, lse: Tensor, heads_grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of qkv from that of `heads`, both bfloat16 and of the shapes above, and its sum over all tokens,
        (3 * width,) float32."""
        grad, sums = torch.empty_like(qkv), self._sums(qkv.shape[-1])
        batch, num_heads, tokens = lse.shape
        head_dim = heads.shape[-1] // num_heads
        self._call("attention_backward", qkv, heads, lse, heads_grad, grad, sums, batch, tokens, num_heads, head_dim)
        return grad, sums.sum(0)

    def norm_forward(
        self, stream: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """stream (rows, width) float32, branch bfloat16 -> their sum, its layer norm in bfloat16, and of each row the
        mean and the reciprocal standard deviation, (rows,)."""
        rows, width = stream.shape
        sums = stream if branch is None else torch.empty_like(stream)
        normed = torch.empty(rows, width, dtype=torch.bfloat16)
        mean, rstd = torch.empty(rows), torch.empty(rows)
        arrays = (stream, branch, weight, bias, eps, sums, normed, mean, rstd)
        self._call("norm_forward", *arrays, rows, width)
        return sums, normed, mean, rstd

    def add(self, stream: Tensor, branch: Tensor, sums: Tensor) -> None:
        """sums = stream (rows, width) float32 + branch bfloat16."""
        self._call("add", stream, branch, sums, stream.numel())

    def norm_backward(
        self,
        normed_grad: Tensor,
        sums: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor,
        bias: Tensor,
        passing: Tensor,
        stream_grad: Tensor,
        branch_grad: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """stream_grad = passing + what comes back through the norm, (rows, width) float32; the two may be one tensor.
        branch_grad (bfloat16), where one is given, gets a copy. Returns what the norm had given, bit for bit, the
        gradients of weight and bias, and the sum of stream_grad over the rows, (width,) each."""
        rows, width = sums.shape
        found = self._sums(3, width)
        normed = torch.empty_like(normed_grad)
        arrays = (normed_grad, sums, mean, rstd, weight, bias, passing, stream_grad, branch_grad, normed, found)
        self._call("norm_backward", *arrays, rows, width)
        weight_grad, bias_grad, grad_sum = found.sum(0)
        return normed, weight_grad, bias_grad, grad_sum

    def lower(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """grad (rows, width) float32 -> the same in bfloat16, and its sum over the rows, (width,)."""
        rows, width = grad.shape
        lowered, sums = torch.empty(rows, width, dtype=torch.bfloat16), self._sums(width)
        self._call("lower", grad, lowered, sums, rows, width)
        return lowered, sums.sum(0)

    def gelu_forward(self, hidden: Tensor, active: Tensor, kind: Gelu) -> None:
        """active = GELU(hidden), both bfloat16; kinds as in `layers.mlp.make_activation`."""
        self._call("gelu_forward", hidden, active, hidden.numel(), _KINDS[kind])

    def gelu_backward(self, hidden: Tensor, grad: Tensor, active: Tensor, kind: Gelu) -> Tensor:
        """grad (rows, width) of the active features becomes that of the hidden ones, in place; `active` is computed
        again. All bfloat16. Returns the sum of the gradients over the rows, (width,) float32."""
        rows, width = hidden.shape
        sums = self._sums(width)
        self._call("gelu_backward", hidden, grad, active, sums, rows, width, _KINDS[kind])
        return sums.sum(0)

    def _sums(self, *shape: int) -> Tensor:
        """For each thread a place for sums. Zeros: OpenMP may start fewer threads than it is asked for."""
        return torch.zeros(torch.get_num_threads(), *shape)

    def _call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        if any(isinstance(argument, FakeTensor) for argument in arguments):
            return  # has a shape and no numbers: someone counts memory (`memory.py`)
        assert all(argument.is_contiguous() for argument in arguments if isinstance(argument, Tensor))
        function = self._functions.get(name) or self._declared(name, arguments)
        values = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
        if function(*values, torch.get_num_threads()) == 1 and name.startswith("attention"):
            raise MemoryError(f"no memory for {name}: take a smaller batch_size, or fewer num_threads")

    def _declared(self, name: str, arguments: Sequence[Tensor | int | float | None]) -> Any:
        """The function, told what it takes, which makes calling it several times as fast."""
        function = getattr(self._library, name)
        kinds = {int: ctypes.c_long, float: ctypes.c_float}
        function.argtypes = [*(kinds.get(type(argument), ctypes.c_void_p) for argument in arguments), ctypes.c_int]
        self._functions[name] = function
        return function


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
        back, _ = kernels.attention_backward(qkv, heads, lse, heads)
        return bool(
            torch.allclose(heads.float(), expected, atol=0.02)
            and torch.allclose(normed.float(), F.layer_norm(stream, (48,)), atol=0.02)
            and torch.allclose(active.float(), F.gelu(qkv.float()), atol=0.02)
            and back.isfinite().all()
        )
