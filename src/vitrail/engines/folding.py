"""A Vision Transformer laid out for inference alone: whatever is linear and fixed is multiplied out beforehand.

Folded are the normalisation of the preprocessing into the patch embedding, so that bytes go in; the affine part of a
norm into the Linear behind it; the scale of the queries into their rows of qkv; LayerScale into the Linear before it;
prefix tokens and positions into one table. And in the last block only the tokens go on that are pooled: with a class
token that leaves out five sixths of the block, and not a bit of the answer.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.config import Preprocessing
from vitrail.engines.config import Answer
from vitrail.engines.folded_patches import FoldedPatches, NormalizedStem
from vitrail.engines.linear import Linear, PackedLinear, fused_activation
from vitrail.layers.block import Block, LayerScale
from vitrail.layers.mlp import Mlp
from vitrail.models.vit import VisionTransformer
from vitrail.training.block_kernels import LANES, MOST_TOKENS, block_kernels

AttentionWay = Literal["products", "fused", "kernel"]


def can_fold(model: nn.Module) -> bool:
    """Whether `FoldedViT` takes it: a Vision Transformer whose tokens all see each other."""
    return isinstance(model, VisionTransformer) and model.config.attention == "global"


def has_kernel(model: VisionTransformer, dtype: torch.dtype) -> bool:
    """Whether the attention of `model` can be computed by our own kernel here."""
    return (
        dtype == torch.bfloat16
        and model.config.attention_head_dim % LANES == 0
        and all(block.attn.relative_positions is None for block in model.blocks if isinstance(block, Block))
        and model.config.num_tokens <= MOST_TOKENS
        and block_kernels() is not None
    )


class FoldedViT(nn.Module):
    """Answers as `model(normalize(images, preprocessing))`, from bytes, but for rounding.

    Args:
        model: in evaluation mode; it is copied, and stays as it is.
        preprocessing: whose normalisation the pictures need.
        dtype: of the weights and of what goes between them; norms and softmax compute in float32 whatever it is, and
            so do the final norm, pooling and head.
        answer: "logits", or "features": what the head sees.
        attention: "products": written out; "fused": torch's kernel; "kernel": ours, for bfloat16, where `has_kernel`
            (the last block, whose queries are few, is written out). The machine decides which is fastest.

    Raises:
        ValueError: a model that `can_fold` does not take.
    """

    prefix: Tensor
    positions: Tensor
    later_positions: Tensor | None

    def __init__(
        self,
        model: VisionTransformer,
        preprocessing: Preprocessing,
        *,
        dtype: torch.dtype = torch.float32,
        answer: Answer = "logits",
        attention: AttentionWay = "products",
    ) -> None:
        super().__init__()
        if not can_fold(model):
            raise ValueError("axial attention has no folded form: ask the model itself")
        config = model.config
        self.answer: Answer = answer
        is_plain = config.stem == "patch" and not config.patch_norm
        self.embed = FoldedPatches(model, preprocessing) if is_plain else NormalizedStem(model, preprocessing)
        first, later = _tables(model)
        self.register_buffer("prefix", first[:, : config.num_prefix_tokens].clone())
        self.register_buffer("positions", first[:, config.num_prefix_tokens :].clone())
        self.register_buffer("later_positions", later)
        self.norm_pre = copy.deepcopy(model.norm_pre)
        pooled = _pooled_tokens(model)
        self.blocks = nn.ModuleList(
            FoldedBlock(block, pooled if index == config.depth - 1 else None)  # type: ignore[arg-type]
            for index, block in enumerate(model.blocks)
        )
        self.to(dtype)
        self.tail = _tail(model, dtype)
        self.attend_by(attention)
        self.requires_grad_(False)
        self.eval()

    def attend_by(self, way: AttentionWay) -> None:
        """Have every block attend in this way."""
        for block in self.blocks:
            block.attention = way  # type: ignore[assignment]

    def lower(self, dtype: torch.dtype) -> None:
        """Put what still computes in float32 before the final norm into another precision; weights of integers, whose
        factors must stay exact, are left as they are."""
        self.embed.to(dtype)
        self.norm_pre.to(dtype)
        self.prefix, self.positions = self.prefix.to(dtype), self.positions.to(dtype)
        if self.later_positions is not None:
            self.later_positions = self.later_positions.to(dtype)
        for block in self.blocks:
            assert isinstance(block, FoldedBlock)
            block.norm1.to(dtype)
            block.norm2.to(dtype)
            if block.relative_table is not None:
                block.relative_table = block.relative_table.to(dtype)
        if self.tail.attn_pool is not None:
            self.tail.attn_pool.lower(dtype)  # type: ignore[operator]

    def pack(self, rows: int) -> None:
        """Pack all weights of the blocks and the plain stem for inputs of about so many rows; `can_pack` tells whether
        the machine can."""
        for module in list(self.modules()):
            if isinstance(module, FoldedMlp):
                module.pack(rows)
            for name, child in list(module.named_children()):
                if isinstance(child, Linear):
                    setattr(module, name, PackedLinear(child, rows))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 -> (batch, classes or features) float32."""
        patches = self.embed(images) + self.positions
        tokens = torch.cat([self.prefix.expand(images.shape[0], -1, -1), patches], dim=1)
        tokens = self.norm_pre(tokens)
        for index, block in enumerate(self.blocks):
            if index > 0 and self.later_positions is not None:
                tokens = tokens + self.later_positions[index % len(self.later_positions)]
            tokens = block(tokens)
        tokens = self.tail.norm(tokens.float())
        return self.tail.forward_head(tokens, pre_logits=self.answer == "features")


class FoldedBlock(nn.Module):
    """A `Block` for inference.

    Args:
        block: either style.
        pooled: None, or how many leading tokens of the result are wanted; the others are only seen, not computed.
    """

    attention: AttentionWay
    relative_table: Tensor | None

    def __init__(self, block: Block, pooled: int | None = None) -> None:
        super().__init__()
        attn = block.attn
        self.is_pre_norm = block.style == "pre_norm"
        self.num_heads, self.head_dim, self.pooled = attn.num_heads, attn.head_dim, pooled
        self.norm1 = _norm(block.norm1, is_folded=self.is_pre_norm)
        self.norm2 = _norm(block.norm2, is_folded=self.is_pre_norm)
        self.query, self.key_value, self.qkv = None, None, None
        weight, bias = _behind_norm(attn.qkv, block.norm1 if self.is_pre_norm else None)
        num_queries = attn.num_heads * attn.head_dim
        scale = torch.ones(len(weight), dtype=torch.float64)
        scale[:num_queries] = attn.head_dim**-0.5
        weight, bias = weight * scale[:, None], None if bias is None else bias * scale
        if pooled is None:
            self.qkv = Linear(weight, bias)
        else:
            self.query = Linear(weight[:num_queries], None if bias is None else bias[:num_queries])
            self.key_value = Linear(weight[num_queries:], None if bias is None else bias[num_queries:])
        table = None if attn.relative_positions is None else attn.relative_positions.table.detach().clone()
        self.register_buffer("relative_table", table)
        self.proj = _before_scale(attn.proj, block.ls1)
        self.mlp = FoldedMlp(block.mlp, block.norm2 if self.is_pre_norm else None, block.ls2)
        self.attention = "products"

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens or pooled, width)."""
        seen = self.norm1(tokens) if self.is_pre_norm else tokens
        if self.attention == "kernel" and self.qkv is not None:
            heads = torch.ops.vitrail.attention(self.qkv(seen), self.num_heads)
        else:
            heads = self._attend(*self._split(seen)).transpose(1, 2).flatten(2)
        tokens = tokens[:, : self.pooled] + self.proj(heads)
        if self.is_pre_norm:
            return tokens + self.mlp(self.norm2(tokens))
        tokens = self.norm1(tokens)
        return self.norm2(tokens + self.mlp(tokens))

    def _split(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, tokens, width) -> query, key, value, each (batch, heads, tokens, head_dim), the query scaled."""
        if self.qkv is not None:
            parts = self.qkv(seen).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
            query, key, value = parts.unbind(0)
            return query, key, value
        assert self.query is not None
        assert self.key_value is not None
        query = self.query(seen[:, : self.pooled]).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        parts = self.key_value(seen).unflatten(-1, (2, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        key, value = parts.unbind(0)
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = None if self.relative_table is None else _relative_logits(query, key.shape[2], self.relative_table)
        if self.attention == "fused":
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        logits = query @ key.transpose(-2, -1)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ value


class FoldedMlp(nn.Module):
    """An `Mlp` for inference, with the affine part of the norm before it and the LayerScale behind it."""

    def __init__(self, mlp: Mlp, norm: nn.LayerNorm | None, scale: nn.Module) -> None:
        super().__init__()
        self.fc1: nn.Module = Linear(*_behind_norm(mlp.fc1, norm))
        self.act = copy.deepcopy(mlp.act)
        self.fc2: nn.Module = _before_scale(mlp.fc2, scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        return self.fc2(self.act(self.fc1(tokens)))

    def pack(self, rows: int) -> None:
        """Pack its weights, the activation with the first product where oneDNN has it."""
        activation = fused_activation(self.act)
        if isinstance(self.fc1, Linear):
            self.fc1 = PackedLinear(self.fc1, rows, activation or ("none", "none"))
            self.act = self.act if activation is None else nn.Identity()
        if isinstance(self.fc2, Linear):
            self.fc2 = PackedLinear(self.fc2, rows)


class InPrecision(nn.Module):
    """A module in another precision than what surrounds it."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def lower(self, dtype: torch.dtype) -> None:
        """Change the precision."""
        self.module, self.dtype = self.module.to(dtype), dtype

    def forward(self, features: Tensor) -> Tensor:
        """As the module, float32 -> float32."""
        return self.module(features.to(self.dtype)).float()


def _norm(norm: nn.LayerNorm, *, is_folded: bool) -> nn.LayerNorm:
    """A copy, without its affine part where that is folded into what follows."""
    if not is_folded:
        return copy.deepcopy(norm)
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def _behind_norm(linear: nn.Linear, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float64 that do, on what is normed but not scaled, what `linear` does behind `norm`."""
    weight = linear.weight.detach().double()
    bias = None if linear.bias is None else linear.bias.detach().double()
    if norm is None:
        return weight, bias
    shift = weight @ norm.bias.detach().double()
    return weight * norm.weight.detach().double(), shift if bias is None else bias + shift


def _before_scale(linear: nn.Linear, scale: nn.Module) -> Linear:
    """`linear` and then `scale` in one."""
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    if isinstance(scale, LayerScale):
        gamma = scale.gamma.detach().double()
        weight, bias = weight * gamma[:, None], bias * gamma
    return Linear(weight, bias)


def _relative_logits(query: Tensor, num_keys: int, table: Tensor) -> Tensor:
    """As `RelativePositions`, for the leading queries (batch, heads, queries, head_dim), already scaled."""
    by_offset = query @ table.t()
    place = torch.arange(num_keys, device=query.device)
    offset = place[: query.shape[2], None] - place[None, :] + num_keys - 1
    return by_offset.gather(-1, offset.expand(*query.shape[:2], *offset.shape))


def _tables(model: VisionTransformer) -> tuple[Tensor, Tensor | None]:
    """What every sequence starts from, (1, tokens, width): prefix tokens, zeros for the patches, and the first layer's
    positions; and what later layers add, (1 or depth, tokens, width), where they do."""
    config = model.config
    with torch.no_grad():
        start = torch.zeros(1, config.num_tokens, config.width)
        prefix: list[Tensor] = [
            token for token in (model.cls_token, model.dist_token, model.reg_token) if token is not None
        ]
        if prefix:
            start[:, : config.num_prefix_tokens] = torch.cat(prefix, dim=1)
        positions = model.positions()
        if positions is None:
            return start, None
        later = None if config.position_placement == "input" else positions.detach().clone()
        return start + positions[:1], later


def _pooled_tokens(model: VisionTransformer) -> int | None:
    """How many leading tokens pooling reads; None: the patches too, so all of them."""
    config = model.config
    if config.pooling != "token":
        return None
    return 2 if config.distillation_token else 1


def _tail(model: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """A copy that has what comes behind the blocks: final norm, pooling and heads, in float32."""
    left_out: dict[int, object] = {id(model.blocks): nn.ModuleList(), id(model.patch_embed): nn.Identity()}
    tail = copy.deepcopy(model, left_out).float()
    if tail.attn_pool is not None:  # large enough to count
        tail.attn_pool = InPrecision(tail.attn_pool, dtype)  # type: ignore[assignment]
    return tail
