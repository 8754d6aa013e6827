"""One encoder block's update in bfloat16 on a CPU, forward and backward written out around the kernels of
block_kernels.c: the same mathematics as `layers/block.py`, with fewer passes over memory."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vitrail.layers.block import Block, LayerScale, StochasticDepth
from vitrail.layers.mlp import QuickGelu
from vitrail.training.block_kernels import LANES, MOST_TOKENS, BlockKernels, Gelu, block_kernels

# Bytes of hidden features that are worked on at a time, and so stay in the processor's cache between the products and
# what follows them. The batch is cut at whole pictures.
_CHUNK_BYTES = 6 << 20


def can_fuse(model: nn.Module) -> bool:
    """Whether `set_fused` would change anything here: a block that it suits, and a machine with the kernels."""
    return any(isinstance(module, Block) and _suits(module) for module in model.modules()) and (
        block_kernels() is not None
    )


def set_fused(model: nn.Module, is_fused: bool) -> None:
    """From now on the blocks of `model` are, or are not, computed by the kernels where those suit (see `fused`)."""
    # Asked for here: they are compiled and checked outside of whatever mode the model is called in.
    way = fused if is_fused and block_kernels() is not None else None
    for module in model.modules():
        if isinstance(module, Block):
            module.fused = way


def fused(block: Block, tokens: Tensor) -> Tensor | None:
    """What `block` makes of tokens (..., tokens, width) while it learns, float32; None where the kernels do not suit.

    They suit pre-norm blocks with a GELU that drop nothing, in bfloat16 autocast on the CPU, whose parameters all
    learn.
    """
    kernels = block_kernels()
    if (
        kernels is None
        or tokens.device.type != "cpu"
        or not torch.is_grad_enabled()
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or torch.compiler.is_compiling()
        or tokens.shape[-2] > MOST_TOKENS
        or not _suits(block)
    ):
        return None
    attn, mlp = block.attn, block.mlp
    with torch.autocast("cpu", enabled=False):
        # LayerScale is a factor on the rows of the product before it; autograd takes both apart again.
        proj, proj_bias = _scaled(attn.proj, block.ls1)
        fc2, fc2_bias = _scaled(mlp.fc2, block.ls2)
        answer = _FusedBlock.apply(
            kernels, gelu_of(mlp.act), attn.num_heads, block.norm1.eps, block.norm2.eps,
            tokens.float().flatten(0, -3),
            block.norm1.weight, block.norm1.bias, attn.qkv.weight, attn.qkv.bias, proj, proj_bias,
            block.norm2.weight, block.norm2.bias, mlp.fc1.weight, mlp.fc1.bias, fc2, fc2_bias,
        )  # fmt: skip
    return cast(Tensor, answer).view(tokens.shape)


def _suits(block: Block) -> bool:
    attn, mlp = block.attn, block.mlp
    drops = (block.drop_path1, block.drop_path2)
    return (
        block.style == "pre_norm"
        and gelu_of(mlp.act) is not None
        and attn.relative_positions is None
        and attn.attention_dropout_rate == attn.proj_drop.p == mlp.drop1.p == mlp.drop2.p == 0
        and all(isinstance(drop, StochasticDepth) and drop.rate == 0 for drop in drops)
        and attn.head_dim % LANES == 0
        and attn.proj.out_features % LANES == 0
        and mlp.fc1.out_features % LANES == 0
        and all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in block.parameters())
    )


def gelu_of(activation: nn.Module) -> Gelu | None:
    """The kind of GELU that it is, or None."""
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    return "quick_gelu" if isinstance(activation, QuickGelu) else None


def _scaled(layer: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(scale, LayerScale):
        return layer.weight * scale.gamma[:, None], layer.bias * scale.gamma
    return layer.weight, layer.bias


class _FusedBlock(torch.autograd.Function):
    """x + MSA(LN(x)), then + MLP(LN(.)), in chunks of whole pictures.

    Products and the activations kept for the backward pass are bfloat16; the residual stream, statistics and the sums
    of gradients over chunks are float32. Attention weights, normed tokens and active features are not kept but computed
    again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: BlockKernels,
        gelu: Gelu,
        num_heads: int,
        eps1: float,
        eps2: float,
        tokens: Tensor,
        norm1: Tensor,
        norm1_bias: Tensor,
        qkv: Tensor,
        qkv_bias: Tensor | None,
        proj: Tensor,
        proj_bias: Tensor,
        norm2: Tensor,
        norm2_bias: Tensor,
        fc1: Tensor,
        fc1_bias: Tensor,
        fc2: Tensor,
        fc2_bias: Tensor,
    ) -> Tensor:
        batch, length, width = tokens.shape
        weights = [weight.bfloat16() for weight in (qkv, proj, fc1, fc2)]
        add = [None if bias is None else bias.bfloat16() for bias in (qkv_bias, proj_bias, fc1_bias, fc2_bias)]
        chunks = max(1, round(2 * batch * length * len(fc1) / _CHUNK_BYTES))
        size = -(-batch // chunks)  # all of nearly one size
        answer = torch.empty(batch, length, width)
        kept: list[Tensor] = []
        for part, to in zip(tokens.contiguous().split(size), answer.split(size), strict=True):
            stream = part.view(-1, width)
            _, normed1, mean1, rstd1 = kernels.norm_forward(stream, None, norm1, norm1_bias, eps1)
            parts = _linear(normed1, weights[0], add[0]).view(len(part), length, -1)
            heads, lse = kernels.attention_forward(parts, num_heads)
            branch = _linear(heads.view(-1, heads.shape[-1]), weights[1], add[1])
            middle, normed2, mean2, rstd2 = kernels.norm_forward(stream, branch, norm2, norm2_bias, eps2)
            hidden = _linear(normed2, weights[2], add[2])
            active = torch.empty_like(hidden)
            kernels.gelu_forward(hidden, active, gelu)
            kernels.add(middle, _linear(active, weights[3], add[3]), to.view(-1, width))
            kept += [stream, mean1, rstd1, parts, heads, lse, middle, mean2, rstd2, hidden]
        ctx.save_for_backward(norm1, norm1_bias, norm2, norm2_bias, *weights, *kept)
        ctx.kernels, ctx.gelu, ctx.size = kernels, gelu, size
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, answer_grad: Tensor) -> tuple[Tensor | None, ...]:
        norm1, norm1_bias, norm2, norm2_bias, qkv, proj, fc1, fc2, *kept = ctx.saved_tensors
        kernels: BlockKernels = ctx.kernels
        width = answer_grad.shape[-1]
        answer_grad = answer_grad.contiguous()
        grad = torch.empty_like(answer_grad)
        totals: list[Tensor] = []
        parts_of_both = zip(answer_grad.split(ctx.size), grad.split(ctx.size), strict=True)
        for number, (passing, part) in enumerate(parts_of_both):
            (stream, mean1, rstd1, parts, heads, lse, middle, mean2, rstd2, hidden) = kept[
                10 * number : 10 * number + 10
            ]
            passing, stream_grad = passing.view(-1, width), part.view(-1, width)
            branch_grad, fc2_bias_grad = kernels.lower(passing)
            hidden_grad, active = branch_grad @ fc2, torch.empty_like(hidden)
            fc1_bias_grad = kernels.gelu_backward(hidden, hidden_grad, active, ctx.gelu)
            found = [branch_grad.T @ active, fc2_bias_grad]
            normed2, *norm2_grads, proj_bias_grad = kernels.norm_backward(
                hidden_grad @ fc1, middle, mean2, rstd2, norm2, norm2_bias, passing, stream_grad, branch_grad
            )
            found += [hidden_grad.T @ normed2, fc1_bias_grad, *norm2_grads]
            heads_grad = (branch_grad @ proj).view(heads.shape)
            found += [branch_grad.T @ heads.view(-1, heads.shape[-1]), proj_bias_grad]
            parts_grad, qkv_bias_grad = kernels.attention_backward(parts, heads, lse, heads_grad)
            parts_grad = parts_grad.view(-1, parts.shape[-1])
            normed1, *norm1_grads, _ = kernels.norm_backward(
                parts_grad @ qkv, stream, mean1, rstd1, norm1, norm1_bias, stream_grad, stream_grad, None
            )
            found += [parts_grad.T @ normed1, qkv_bias_grad, *norm1_grads]
            if totals:
                for total, more in zip(totals, found, strict=True):
                    total += more
            else:
                totals = [value.float() for value in found]
        w2, b2, w1, b1, w_norm2, b_norm2, w_proj, b_proj, w_qkv, b_qkv, w_norm1, b_norm1 = totals
        of_settings = (None,) * 5
        return (
            *of_settings, grad, w_norm1, b_norm1, w_qkv, b_qkv if ctx.needs_input_grad[9] else None,
            w_proj, b_proj, w_norm2, b_norm2, w1, b1, w2, b2,
        )  # fmt: skip


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return rows @ weight.T
    # addmm writes the bias to every row first and adds the product to it; oneDNN adds it while the product is at hand.
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], ""))
