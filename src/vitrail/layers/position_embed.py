"""Where a token stands: fixed, learned and relative position embeddings, and their resampling to another grid."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SincosVersion = Literal["sincos_2d_big_vision", "sincos_2d_mae", "sincos_2d_moco"]
ResampleMethod = Literal[
    "bilinear_align_corners",  # Google's code: scipy zoom of order 1, corners on corners
    "bilinear",  # timm's reader of npz files
    "bilinear_antialias",
    "bicubic",  # MAE, DeiT: half-pixel centres
    "bicubic_antialias",  # timm's reader of state dicts, DINOv2 with registers
    "bicubic_align_corners",  # torchvision
    "bicubic_offset",  # DINO, DINOv2: the scale is (to + 0.1) / from, and moves the sampling points a little
]


def sincos_2d(grid: tuple[int, int], width: int, version: SincosVersion) -> Tensor:
    """Fixed sine-cosine positions of a grid; three published versions that are pairwise different.

    "sincos_2d_big_vision" (Beyer et al. 2022): frequencies 10000^(-i/(width/4 - 1)), parts sin x, cos x, sin y, cos y
    with x the column and y the row. "sincos_2d_mae" (He et al. 2022): frequencies 10000^(-i/(width/4)), same parts.
    "sincos_2d_moco" (Chen et al. 2021, MoCo v3): as MAE with rows and columns exchanged.

    Args:
        grid: (height, width) in patches.
        width: features, a multiple of 4 (at least 8 for big_vision's version).

    Returns:
        (1, grid height * grid width, width) in float32, raster order.

    Raises:
        ValueError: a width that cannot be split so, or an unknown version.
    """
    quarter = width // 4
    if width % 4 or (version == "sincos_2d_big_vision" and quarter < 2):
        raise ValueError(f"{version} needs a width that is a multiple of 4 (big_vision: at least 8), not {width}")
    if version not in get_args(SincosVersion):
        raise ValueError(f"sincos version {version!r} is none of {', '.join(get_args(SincosVersion))}")
    # In float64: the published tables are, and the smallest frequencies lose digits otherwise.
    last = quarter - 1 if version == "sincos_2d_big_vision" else quarter
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / last)
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing="ij"
    )
    first, second = (rows, columns) if version == "sincos_2d_moco" else (columns, rows)
    angles = [position.flatten()[:, None] * frequencies for position in (first, second)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return table[None].float()


class LearnedPositions2D(nn.Module):
    """A learned table of rows and one of columns, each of half the width (Dosovitskiy et al. 2021, appendix D.4).

    The position of a patch is its column's half followed by its row's half; prefix tokens have whole vectors.

    Args:
        num_tables: how many such tables (one for each layer, or one).
        grid: (height, width) in patches.
        width: features, even.
        num_prefix: prefix tokens that have a position.
    """

    def __init__(self, num_tables: int, grid: tuple[int, int], width: int, num_prefix: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.zeros(num_tables, grid[1], width // 2))
        self.rows = nn.Parameter(torch.zeros(num_tables, grid[0], width // 2))
        self.prefix = nn.Parameter(torch.zeros(num_tables, num_prefix, width)) if num_prefix else None

    def initialize(self, generator: torch.Generator | None) -> None:
        """Normal of standard deviation 0.02."""
        for table in self.parameters():
            nn.init.normal_(table, std=0.02, generator=generator)

    def forward(self) -> Tensor:
        """The tables written out: (num_tables, num_prefix + grid height * grid width, width)."""
        height, width = self.rows.shape[1], self.columns.shape[1]
        columns = self.columns[:, None].expand(-1, height, -1, -1)
        rows = self.rows[:, :, None].expand(-1, -1, width, -1)
        patches = torch.cat([columns, rows], dim=-1).flatten(1, 2)
        return patches if self.prefix is None else torch.cat([self.prefix, patches], dim=1)


class RelativePositions(nn.Module):
    """1-D relative positions: a vector for every offset between a query's and a key's place in the sequence.

    The query attends to these vectors as to a second set of keys, and the logits are added to those of the content
    (Dosovitskiy et al. 2021, appendix D.4; Shaw et al. 2018, section 3). The heads share the table, as in Shaw et al.

    Args:
        num_tokens: length of the sequence, prefix tokens included.
        head_dim: features of a query.
    """

    def __init__(self, num_tokens: int, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2 * num_tokens - 1, head_dim))

    def initialize(self, generator: torch.Generator | None) -> None:
        """Normal of standard deviation 0.02, as the other learned positions."""
        nn.init.normal_(self.table, std=0.02, generator=generator)

    def forward(self, query: Tensor) -> Tensor:
        """(batch, heads, tokens, head_dim) -> logits to add, (batch, heads, tokens, tokens), already scaled.

        Raises:
            ValueError: another number of tokens than the table was made for; their places would be unknown.
        """
        num_tokens = query.shape[2]
        if 2 * num_tokens - 1 != self.table.shape[0]:
            raise ValueError(
                f"{num_tokens} tokens have no relative positions in a table of {self.table.shape[0]} offsets"
            )
        by_offset = (query * query.shape[-1] ** -0.5) @ self.table.t()  # (batch, heads, tokens, 2 tokens - 1)
        place = torch.arange(num_tokens, device=query.device)
        offset = place[:, None] - place[None, :] + num_tokens - 1  # query's place minus key's, from 0
        return by_offset.gather(-1, offset.expand(*query.shape[:2], num_tokens, num_tokens))


def spread_positions(table: Tensor, num_table_prefix: int, num_prefix_tokens: int) -> Tensor:
    """Give the prefix tokens that have no position a row of zeros.

    Args:
        table: (tables, num_table_prefix + patches, width).
        num_table_prefix: leading rows that belong to the first prefix tokens.
        num_prefix_tokens: prefix tokens in the sequence, at least num_table_prefix.

    Returns:
        (tables, num_prefix_tokens + patches, width).
    """
    missing = num_prefix_tokens - num_table_prefix
    if missing == 0:
        return table
    zeros = table.new_zeros(table.shape[0], missing, table.shape[2])
    return torch.cat([table[:, :num_table_prefix], zeros, table[:, num_table_prefix:]], dim=1)


def resample_position_embedding(
    table: Tensor,
    from_grid: tuple[int, int],
    to_grid: tuple[int, int],
    num_prefix: int,
    method: ResampleMethod = "bilinear_align_corners",
) -> Tensor:
    """Stretch a learned table to another grid, any rectangle to any other; prefix rows are kept as they are.

    Dosovitskiy et al. 2021, section 3.2. The published codes differ in the kernel and in where they sample, and the
    difference is large: use the one the weights were used with.

    Args:
        table: (tables, num_prefix + from_grid[0] * from_grid[1], width), usually one table.
        from_grid, to_grid: (height, width) in patches.
        num_prefix: leading rows that belong to prefix tokens.
        method: see `ResampleMethod`; the default is the reference's.

    Returns:
        (tables, num_prefix + to_grid[0] * to_grid[1], width) in the table's dtype; the table itself where the grids
        are equal.

    Raises:
        ValueError: the rows do not fit from_grid and num_prefix, a grid is empty, or the method is unknown.
    """
    if method not in get_args(ResampleMethod):
        raise ValueError(f"resampling method {method!r} is none of {', '.join(get_args(ResampleMethod))}")
    if table.ndim != 3 or table.shape[1] != num_prefix + from_grid[0] * from_grid[1]:
        raise ValueError(
            f"a position table of shape {tuple(table.shape)} is not (tables, {num_prefix} + "
            f"{from_grid[0]} x {from_grid[1]}, width)"
        )
    if min(*from_grid, *to_grid) < 1:
        raise ValueError(f"cannot resample from grid {from_grid} to grid {to_grid}: a side is empty")
    if from_grid == to_grid:
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    picture = patches.transpose(1, 2).unflatten(2, from_grid).float()  # (tables, width, height, width)
    picture = _interpolate(picture, to_grid, method)
    return torch.cat([prefix, picture.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def _interpolate(picture: Tensor, to_grid: tuple[int, int], method: ResampleMethod) -> Tensor:
    mode = method.partition("_")[0]
    if method == "bicubic_offset":
        # Torch samples by the scale it is given, not by the sizes, so this is not the same as size=to_grid.
        scale = [(to + 0.1) / source for to, source in zip(to_grid, picture.shape[2:], strict=True)]
        return F.interpolate(picture, scale_factor=scale, mode=mode, align_corners=False)
    antialias = method.endswith("antialias")
    if antialias and to_grid[1] == 1:
        # Torch forgets to resize the rows where an antialiased result is one column wide: give it two that are alike.
        picture = F.interpolate(picture, size=(picture.shape[2], 1), mode=mode, align_corners=False, antialias=True)
        return _interpolate(picture.expand(-1, -1, -1, 2), (to_grid[0], 2), method)[..., :1]
    align_corners = method.endswith("align_corners")
    return F.interpolate(picture, size=to_grid, mode=mode, align_corners=align_corners, antialias=antialias)
