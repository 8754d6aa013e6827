"""The encoder block: attention and MLP, each with its norm, its scale, its stochastic depth and its residual."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.mlp import Mlp


class LayerScale(nn.Module):
    """One learned factor for each feature (Touvron et al. 2021, "Going deeper with image transformers", section 2)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((width,), init))

    def initialize(self, generator: torch.Generator | None) -> None:
        """Every factor starts at `init`; nothing is drawn."""
        nn.init.constant_(self.gamma, self.init)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return tokens * self.gamma


class StochasticDepth(nn.Module):
    """In training, drops the whole branch for a picture with this probability, and scales up those that stay.

    Huang et al. 2016, "Deep networks with stochastic depth"; the scale keeps the expectation, so evaluation is the
    identity.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"

    def forward(self, branch: Tensor) -> Tensor:
        """(batch, ..., width) -> the same shape."""
        if not self.training or self.rate == 0.0:
            return branch
        keep_rate = 1.0 - self.rate
        one_a_picture = (branch.shape[0], *(1 for _ in branch.shape[1:]))
        kept = torch.full(one_a_picture, keep_rate, dtype=branch.dtype, device=branch.device)
        return branch * (torch.bernoulli(kept) / keep_rate)


class Block(nn.Module):
    """One encoder block.

    Style "pre_norm": x + MSA(LN(x)), then x + MLP(LN(x)) (Dosovitskiy et al. 2021, eq. 2-3). Style "post_norm":
    LN(x + MSA(x)), then LN(x + MLP(x)) (Vaswani et al. 2017, section 3.1); it needs no norm after the last block.

    Args:
        attn, mlp: the two branches.
        width: features of the tokens.
        style: "pre_norm" or "post_norm".
        layer_norm_eps: added to the variance.
        layer_scale_init: None: no LayerScale.
        stochastic_depth_rate: of both branches.

    Attributes:
        fused: while it learns, another way to compute the same: (block, tokens) -> tokens, or None where it does not
            suit. Set by `training/fused_block.py`.

    Raises:
        ValueError: an unknown style.
    """

    def __init__(
        self,
        attn: Attention,
        mlp: Mlp,
        *,
        width: int,
        style: str = "pre_norm",
        layer_norm_eps: float = 1e-6,
        layer_scale_init: float | None = None,
        stochastic_depth_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if style not in ("pre_norm", "post_norm"):
            raise ValueError(f'block style {style!r} is neither "pre_norm" nor "post_norm"')
        self.style = style
        self.fused: Callable[[Block, Tensor], Tensor | None] | None = None
        self.norm1 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attn = attn
        self.ls1 = _layer_scale(width, layer_scale_init)
        self.drop_path1 = StochasticDepth(stochastic_depth_rate)
        self.norm2 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = mlp
        self.ls2 = _layer_scale(width, layer_scale_init)
        self.drop_path2 = StochasticDepth(stochastic_depth_rate)

    def attention_weights(self, tokens: Tensor) -> Tensor:
        """The block's input (batch, tokens, width) -> its attention weights (batch, heads, tokens, tokens)."""
        return self.attn.attention_weights(self.norm1(tokens) if self.style == "pre_norm" else tokens)

    def forward(self, tokens: Tensor, is_causal: bool = False) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width), or (batch, lines, tokens, width) with a line by itself.

        Args:
            is_causal: a token sees itself and those before it alone.
        """
        if self.fused is not None and self.training and not is_causal:
            computed = self.fused(self, tokens)
            if computed is not None:
                return computed
        if self.style == "pre_norm":
            tokens = tokens + self.drop_path1(self.ls1(self.attn(self.norm1(tokens), is_causal)))
            return tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))
        tokens = self.norm1(tokens + self.drop_path1(self.ls1(self.attn(tokens, is_causal))))
        return self.norm2(tokens + self.drop_path2(self.ls2(self.mlp(tokens))))

    def forward_first(self, tokens: Tensor, count: int) -> Tensor:
        """(batch, tokens, width) -> what `forward` makes of the first `count` tokens, (batch, count, width).

        The others are only looked at: with 65 tokens and one wanted, that leaves out five sixths of the work. For style
        "pre_norm", without relative positions.
        """
        seen = self.attn.forward_first(self.norm1(tokens), count)
        tokens = tokens[:, :count] + self.drop_path1(self.ls1(seen))
        return tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))


def _layer_scale(width: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale(width, init)
