"""The class token's row of the position table: folded into the token, or given back, without changing an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig

_TOKENS = ("cls_token", "dist_token")  # in the order of their rows


def fold_class_row(config: ViTConfig, tensors: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor], str]:
    """Add the prefix tokens' position rows into the tokens: what big_vision and DeiT-III keep, which give them no row.

    The same sum that the model makes of them, so every answer stays what it was, bit for bit; big_vision's reader of
    old checkpoints does so too.

    Args:
        config: position_for_prefix is true, and positions are learned.
        tensors: the native state dict.
    Returns:
        The config and the state dict without these rows, and a sentence that says so.
    Raises:
        WeightsError: there are no such rows, or they are added in every layer, which no token can hold.
    """
    rows = _rows_of(config)
    if not config.position_for_prefix or not rows:
        raise WeightsError("the class token has no row of a learned position table that could be folded into it")
    if config.position_placement != "input":
        raise WeightsError(
            f"position_placement '{config.position_placement}' adds the class token's row in every layer; "
            "it cannot be folded into the token"
        )
    folded = dict(tensors)
    if config.position_embedding == "learned_1d":
        table = folded["pos_embed"]
        prefix, folded["pos_embed"] = table[:, : len(rows)], table[:, len(rows) :]
    else:
        prefix = folded.pop("pos_embed.prefix")
    for index, name in enumerate(rows):
        folded[name] = tensors[name] + prefix[:, index : index + 1]
    sentence = f"position row of {_named(rows)} folded into the token"
    return replace(config, position_for_prefix=False), folded, sentence


def add_class_row(config: ViTConfig, tensors: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor], str]:
    """Give prefix tokens without a position a row of zeros, which layouts such as the reference's have a place for.

    Args, returns, raises: as `fold_class_row`, the other way round.
    """
    rows = _rows_of(config)
    if config.position_for_prefix or not rows:
        raise WeightsError("every prefix token that could have a row of a learned position table has one")
    added = dict(tensors)
    if config.position_embedding == "learned_1d":
        table = added["pos_embed"]
        added["pos_embed"] = torch.cat([_zeros(table, len(rows), config.width), table], dim=1)
    else:
        added["pos_embed.prefix"] = _zeros(added["pos_embed.rows"], len(rows), config.width)
    return replace(config, position_for_prefix=True), added, f"position row of zeros for {_named(rows)}"


def _rows_of(config: ViTConfig) -> list[str]:
    """The tokens that have rows where position_for_prefix is true."""
    if not config.position_embedding.startswith("learned"):
        return []
    has = {"cls_token": config.class_token, "dist_token": config.distillation_token}
    return [name for name in _TOKENS if has[name]]


def _zeros(like: Tensor, num_rows: int, width: int) -> Tensor:
    return like.new_zeros(like.shape[0], num_rows, width)


def _named(rows: list[str]) -> str:
    return " and ".join({"cls_token": "the class token", "dist_token": "the distillation token"}[name] for name in rows)
