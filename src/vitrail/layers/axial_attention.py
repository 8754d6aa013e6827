"""Attention along the rows and columns of a grid, one after the other."""

from __future__ import annotations

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
