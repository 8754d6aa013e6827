"""Exact attention weights beside an unchanged forward pass, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrail.layers.block import Block
from vitrail.layers.position_embed import RelativePositions
from vitrail.models.vit import VisionTransformer

# Of weights in float64 that are there at a time, and what is made of them: one head of ViT-L/16 at 512 pixels.
_MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one block on B pictures: H heads, N tokens. Weights are computed when they are asked for.

    Attributes:
        layer: the block's number, from 0.
        query, key: (B, H, N, head_dim), as the block's own forward pass had them.
        relative: the block's table of relative positions, or None.
    """

    layer: int
    query: Tensor
    key: Tensor
    relative: RelativePositions | None = None

    def rows(self, start: int, stop: int, head: int) -> Tensor:
        """What queries `start` to `stop` of a head give to every key: (B, stop - start, N) float64, rows summing to 1.

        softmax(q k^T / sqrt(head_dim) + bias), Dosovitskiy et al. 2021, eq. 6-7, in float64 from the q and k of the
        model's own precision.
        """
        query, key = self.query[:, head].double(), self.key[:, head].double()
        logits = (query[:, start:stop] * query.shape[-1] ** -0.5) @ key.mT
        if self.relative is not None:
            logits = logits + self._bias(head, start, stop)
        weights: Tensor = logits.softmax(-1)
        return weights

    def parts(self, head: int) -> Iterator[tuple[int, Tensor]]:
        """All rows of a head: (first query, (B, some queries, N) float64), as many at a time as 8 MiB hold."""
        batch, _, tokens, _ = self.query.shape
        step = max(1, _MOST_BYTES // (8 * batch * tokens))
        for start in range(0, tokens, step):
            yield start, self.rows(start, min(start + step, tokens), head)

    def _bias(self, head: int, start: int, stop: int) -> Tensor:
        assert self.relative is not None
        table = self.relative.table.detach().double()
        tokens, scale = self.key.shape[-2], self.query.shape[-1] ** -0.5
        by_offset = (self.query[:, head, start:stop].double() * scale) @ table.t()
        place = torch.arange(tokens, device=table.device)
        offset = place[start:stop, None] - place[None, :] + tokens - 1
        bias: Tensor = by_offset.gather(-1, offset.expand(len(by_offset), -1, -1))
        return bias


def visit_attention(
    model: VisionTransformer,
    images: Tensor,
    visit: Callable[[LayerAttention], None],
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Run the model as it is, and show `visit` the attention of each block asked for as the pass comes by.

    Nothing of a block is kept once `visit` returns, so the memory is that of one block's queries and keys and of what
    is asked of them.

    Args:
        model: in evaluation mode, with global attention.
        images: (B, channels, height, width), normalised as the model wants them.
        layers: blocks, from 0, or from -1 backwards; None: all.

    Returns:
        Tokens after the final norm, (B, N, width): `model.forward_features(images)`.

    Raises:
        ValueError: a layer that does not exist, axial attention, or a model that is in training mode.
    """
    if model.config.attention != "global":
        raise ValueError("attention 'axial' has weights along rows and columns, not of all tokens on all tokens")
    if model.training:
        raise ValueError("the model is in training mode, where dropout may change what it sees: call eval() first")
    wanted = check_layers(layers, model.config.depth)
    with ExitStack() as hooks, torch.no_grad():
        for index, block in enumerate(model.blocks):
            if index in wanted:
                assert isinstance(block, Block)
                hooks.callback(block.attn.qkv.register_forward_hook(_shown(index, block, visit)).remove)
        return model.forward_features(images)


def _shown(
    index: int, block: Block, visit: Callable[[LayerAttention], None]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    attn = block.attn

    def show(_: nn.Module, __: tuple[Tensor, ...], qkv: Tensor) -> None:
        query, key, _value = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        visit(LayerAttention(index, query, key, attn.relative_positions))

    return show


def check_layers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """The blocks asked for, from 0, in rising order.

    Raises:
        ValueError: one that does not exist, or none.
    """
    if layers is None:
        return list(range(depth))
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"there is no layer {layer}: the model has {depth} blocks, 0 to {depth - 1}")
    if not layers:
        raise ValueError("no layer is asked for: name at least one, or leave layers out for all")
    return sorted({layer % depth for layer in layers})


def pooled_queries(model: VisionTransformer) -> Tensor:
    """Which tokens the head sees: the class token (and the distillation token), or all patches."""
    config = model.config
    if config.pooling in ("token", "token_and_gap"):
        return torch.arange(2 if config.distillation_token else 1)
    return torch.arange(config.num_prefix_tokens, config.num_tokens)
