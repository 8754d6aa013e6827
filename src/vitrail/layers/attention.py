"""Multi-head self-attention through torch's fused kernel; the weights themselves where someone asks for them, or where
the kernel is slow."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.initialization import xavier_uniform_, zero_bias_
from vitrail.layers.position_embed import RelativePositions

_MOST_KEYS_WRITTEN_OUT = 256


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout_rate: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """softmax(query key^T / sqrt(head_dim) + bias) value, through the fused kernel where it is the faster way.

    Args:
        query: (batch, heads, queries, head_dim).
        key, value: (batch, heads, keys, head_dim).
        bias: added to the logits, broadcastable to (batch, heads, queries, keys).
        dropout_rate: of the attention weights; the caller passes 0 outside training.
        is_causal: a query sees the keys up to its own place alone.

    Returns:
        (batch, heads, queries, head_dim).
    """
    written_out = _is_faster_written_out(query, key)
    if is_causal and (bias is not None or written_out):  # the kernel takes one or the other
        later = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
        bias = torch.zeros((), dtype=query.dtype, device=query.device) if bias is None else bias
        bias, is_causal = bias.masked_fill(later, float("-inf")), False
    if written_out:
        return F.dropout(attention_weights(query, key, bias), dropout_rate) @ value
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout_rate, is_causal=is_causal
    )


def _is_faster_written_out(query: Tensor, key: Tensor) -> bool:
    """Whether plain products beat the kernel: its backward pass in bfloat16 on a CPU takes 2 to 5 times as long at 64
    to 197 tokens, measured with torch 2.14. Above that the weights, which are then kept, would take too much memory."""
    is_slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return is_slow and query.requires_grad and torch.is_grad_enabled() and key.shape[-2] <= _MOST_KEYS_WRITTEN_OUT


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(head_dim) + bias): (batch, heads, queries, keys), every row summing to 1.

    Agrees with what `attend` applies to the values; arguments as there.
    """
    logits = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2; Dosovitskiy et al. 2021, appendix A).

    Args:
        width: features of the tokens that come in and go out.
        num_heads: heads; each sees head_dim features of query, key and value.
        head_dim: None: width / num_heads.
        qkv_bias: whether query, key and value have a bias; the output projection always has one.
        dropout_rate: after the output projection.
        attention_dropout_rate: of the attention weights.
        relative_length: number of tokens of a table of relative positions; None: no such table.

    Raises:
        ValueError: head_dim is None and num_heads does not divide width.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        relative_length: int | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None:
            if width % num_heads:
                raise ValueError(f"width {width} is not divisible by num_heads {num_heads}: give head_dim")
            head_dim = width // num_heads
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.attention_dropout_rate = attention_dropout_rate
        # Rows: all of query, then key, then value; within each, head after head.
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim, bias=qkv_bias)
        self.relative_positions = None if relative_length is None else RelativePositions(relative_length, head_dim)
        self.proj = nn.Linear(num_heads * head_dim, width)
        self.proj_drop = nn.Dropout(dropout_rate)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Xavier uniform on query, key, value and output kernels, each on its own; biases zero."""
        xavier_uniform_(self.qkv.weight, generator, num_kernels=3)
        xavier_uniform_(self.proj.weight, generator)
        zero_bias_(self.qkv)
        zero_bias_(self.proj)

    def split_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, tokens, width) -> query, key, value, each (batch, heads, tokens, head_dim)."""
        batch, num_tokens, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, num_tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _bias(self, query: Tensor) -> Tensor | None:
        return None if self.relative_positions is None else self.relative_positions(query)

    def attention_weights(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> the weights `forward` applies, before dropout: (batch, heads, tokens, tokens)."""
        query, key, _ = self.split_heads(tokens)
        return attention_weights(query, key, self._bias(query))

    def forward(self, tokens: Tensor, is_causal: bool = False) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width); further axes before the tokens are as more of a batch.

        Args:
            is_causal: a token sees itself and those before it alone.
        """
        query, key, value = self.split_heads(tokens.flatten(0, -3))
        rate = self.attention_dropout_rate if self.training else 0.0
        heads = attend(query, key, value, self._bias(query), rate, is_causal)
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2))).view(tokens.shape)

    def forward_first(self, tokens: Tensor, count: int) -> Tensor:
        """(batch, tokens, width) -> what `forward` makes of the first `count` tokens, (batch, count, width).

        Keys and values are those of all tokens, queries those of the first alone. Without relative positions.
        """
        batch, inner = len(tokens), self.num_heads * self.head_dim
        bias = None if self.qkv.bias is None else self.qkv.bias.split((inner, 2 * inner))
        query_weight, rest_weight = self.qkv.weight.split((inner, 2 * inner))
        query = F.linear(tokens[:, :count], query_weight, None if bias is None else bias[0])
        rest = F.linear(tokens, rest_weight, None if bias is None else bias[1])
        query = query.view(batch, count, self.num_heads, self.head_dim).transpose(1, 2)
        key, value = rest.view(batch, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        rate = self.attention_dropout_rate if self.training else 0.0
        heads = attend(query, key, value, None, rate)
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))
