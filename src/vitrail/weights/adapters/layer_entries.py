"""Entries that several layouts share: layers of a weight and a bias, and tables of positions."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.weights.adapters.mapping import SAME, Codec, Entry


def linear(native: str, foreign: str) -> list[Entry]:
    """Weight and bias of a layer or norm."""
    return [Entry(f"{native}.{kind}", (f"{foreign}.{kind}",)) for kind in ("weight", "bias")]


def position_codec(own: int, rows: int, folded: int = 0) -> Codec:
    """For a table with rows before those of the patches, (1, rows + patches, width).

    Args:
        own: how many of these rows the model's table has: the first ones. The others must be zero.
        rows: how many the file's table has.
        folded: how many of them, the last ones, are another entry's and may be anything.
    """
    if own == rows:
        return SAME

    def decode(table: Tensor) -> Tensor:
        if table[:, own : rows - folded].count_nonzero():
            raise ValueError("the class token's row of positions is not zero, and the model has none")
        return torch.cat([table[:, :own], table[:, rows:]], dim=1)

    def encode(table: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([table[:, :own], table.new_zeros(1, rows - own, table.shape[2]), table[:, own:]], dim=1),)

    return Codec(decode, encode)
