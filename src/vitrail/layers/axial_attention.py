"""Attention along the rows and columns of a grid, one after the other."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.layers.block import Block


class AxialBlock(nn.Module):
    """A block along the rows of the grid, then a block along its columns, each with an MLP of its own.

    Dosovitskiy et al. 2021, appendix D.6 (Axial-ViT); Ho et al. 2019, "Axial attention in multidimensional
    transformers". Two blocks let every token reach every other one.

    Args:
        rows, columns: the two blocks.
        grid: (height, width) in tokens.
    """

    def __init__(self, rows: Block, columns: Block, grid: tuple[int, int]) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.grid = grid

    def forward(self, tokens: Tensor, is_causal: bool = False) -> Tensor:
        """(batch, height * width, dim) in raster order -> the same shape.

        Raises:
            ValueError: tokens that are not the whole grid, or is_causal: rows and columns have no common order.
        """
        height, width = self.grid
        if tokens.shape[1] != height * width:
            raise ValueError(f"axial attention needs all {height} x {width} tokens of the grid, not {tokens.shape[1]}")
        if is_causal:
            raise ValueError("axial attention cannot be causal: a column goes on before the row it starts in has ended")
        lines = self.rows(tokens.unflatten(1, self.grid))  # (batch, height, width, dim)
        return self.columns(lines.transpose(1, 2)).transpose(1, 2).flatten(1, 2)


class PositionSensitiveAttention(nn.Module):
    """Multi-head self-attention of a feature map along one axis, in which places count as much as contents.

    Wang et al. 2020, "Axial-DeepLab", section 3.2: the logits are q.k + q.r_q + k.r_k and the answer is the weighted
    sum of v + r_v, with a vector r for every offset between two places of a line; the heads share these vectors, and
    queries and keys have half as many features as values. Each term has a norm of its own, so that no logit is divided
    by the root of anything. The published code norms over the batch; here the groups of a group norm (a head's query,
    key and halves of its value; a head's logits; a head's answers) are normed over one picture, so that no picture
    depends on its neighbours. The number of parameters is the same.

    Args:
        width: channels that come in and go out; twice num_heads divides it.
        num_heads: heads.
        length: cells of a line.
        axis: "rows": every cell sees its row; "columns": its column.
        eps: added to the variances.

    Raises:
        ValueError: twice num_heads does not divide width.
    """

    def __init__(
        self, width: int, num_heads: int, length: int, *, axis: Literal["rows", "columns"], eps: float = 1e-5
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width {width} is not divisible by twice num_heads {num_heads}")
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.length = length
        self.axis = axis
        # Head after head: half a head_dim of query, half of key, a whole one of value.
        self.qkv = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.norm_qkv = nn.GroupNorm(4 * num_heads, 2 * width, eps=eps)
        # A row for the offset length - 1 + a cell's own place - the other's: of query, key and value.
        self.relative_positions = nn.Parameter(torch.zeros(2 * length - 1, 2 * self.head_dim))
        self.norm_content = nn.GroupNorm(num_heads, num_heads, eps=eps)
        self.norm_query_place = nn.GroupNorm(num_heads, num_heads, eps=eps)
        self.norm_key_place = nn.GroupNorm(num_heads, num_heads, eps=eps)
        self.norm_value = nn.GroupNorm(num_heads, width, eps=eps)
        self.norm_value_place = nn.GroupNorm(num_heads, width, eps=eps)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Normal kernels of variance 1 / width and places of 1 / head_dim, as the published code."""
        nn.init.normal_(self.qkv.weight, std=math.sqrt(1 / self.qkv.in_channels), generator=generator)
        nn.init.normal_(self.relative_positions, std=math.sqrt(1 / self.head_dim), generator=generator)

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """r_q, r_k and r_v written out: (length, length, head_dim / 2, / 2 and / 1), [i, j] for a cell i that sees j.

        r_k is from the key's side, which finds the cell that sees it at the opposite offset.
        """
        place = torch.arange(self.length, device=self.relative_positions.device)
        offset = place[:, None] - place[None, :] + self.length - 1
        query, key, value = self._split(self.relative_positions[offset], dim=-1)
        return query, key.transpose(0, 1), value

    def _split(self, features: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        half = self.head_dim // 2
        query, key, value = features.split((half, half, self.head_dim), dim=dim)
        return query, key, value

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width, rows, columns) -> the same shape; the axis has `length` cells.

        Raises:
            ValueError: lines of another length.
        """
        if self.axis == "columns":
            features = features.transpose(2, 3)
        if features.shape[3] != self.length:
            raise ValueError(f"{self.axis} of {features.shape[3]} cells have no places in a table for {self.length}")
        heads = self.norm_qkv(self.qkv(features)).unflatten(1, (self.num_heads, -1))
        query, key, value = self._split(heads, dim=2)  # (batch, heads, features, lines, length)
        query_place, key_place, value_place = self.places()
        logits = self.norm_content(torch.einsum("bhcli,bhclj->bhlij", query, key))
        logits = logits + self.norm_query_place(torch.einsum("bhcli,ijc->bhlij", query, query_place))
        logits = logits + self.norm_key_place(torch.einsum("bhclj,ijc->bhlij", key, key_place))
        weights = logits.softmax(dim=-1)
        contents = torch.einsum("bhlij,bhclj->bhcli", weights, value).flatten(1, 2)
        places = torch.einsum("bhlij,ijc->bhcli", weights, value_place).flatten(1, 2)
        answer = self.norm_value(contents) + self.norm_value_place(places)
        return answer.transpose(2, 3) if self.axis == "columns" else answer
