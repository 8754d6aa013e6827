"""What one forward pass keeps for its backward pass, by formula. Free of torch, so that a plan is instant.

Counts, storage by storage, what torch's autograd saves (`torch.autograd.graph.saved_tensors_hooks` shows the same),
with the fused attention, which never holds the weights of tokens on tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.models.config import ViTConfig
from vitrail.models.costs import _mlp_first, _num_blocks, _patch_kernel, _stem_layers

_FLOAT = 4


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes of one micro-batch."""

    images: int  # the pictures as numbers, and their cast
    stem: int
    blocks: int  # of all blocks; with checkpointing their inputs alone
    head: int  # final norm, pooling, head and loss
    cast_weights: int  # bfloat16 copies of the kernels, which live as long as the graph
    recomputed: int  # of one block, computed again in the backward pass; 0 without checkpointing
    gradient_scratch: int  # gradients of activations inside the block being gone through

    @property
    def total(self) -> int:
        """The most that lives at once: at the beginning of the backward pass."""
        kept = self.images + self.stem + self.blocks + self.head + self.cast_weights
        return kept + self.recomputed + self.gradient_scratch


def activation_memory(
    config: ViTConfig, batch_size: int, precision: Literal["float32", "bfloat16"], *, checkpointing: bool = False
) -> ActivationMemory:
    """Bytes that a training step of `batch_size` pictures keeps.

    Args:
        precision: "bfloat16" is autocast: products and activation functions in 2 bytes; norms, residuals and the
            loss in 4.
    Raises:
        ValueError: another precision, a ResNet stem, or attention that the fused kernel does not do (dropout of the
            attention weights, relative positions): their memory is not modelled.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is neither float32 nor bfloat16")
    if config.attention_dropout_rate or config.position_embedding == "relative" or config.stem == "resnet":
        raise ValueError(
            "the memory of attention that the fused kernel does not do (attention_dropout_rate, relative positions)"
            " and of a ResNet stem is not modelled"
        )
    small = _FLOAT if precision == "float32" else 2
    rows = batch_size * config.num_tokens
    block_input = rows * config.width * _FLOAT
    num_blocks = _num_blocks(config)
    halves = num_blocks // config.depth  # two blocks of axial attention are computed again together
    block = _block(config, rows, small)
    pixels = batch_size * config.in_channels * config.image_size[0] * config.image_size[1]
    images = pixels * _FLOAT + (pixels * small if small != _FLOAT else 0)
    of_a_block, outside = _cast_weights(config, small)
    return ActivationMemory(
        images=images,
        stem=_stem(config, batch_size, small),
        blocks=config.depth * block_input if checkpointing else num_blocks * block,
        head=_head(config, batch_size, rows, small),
        cast_weights=outside + (0 if checkpointing else num_blocks * of_a_block),
        recomputed=halves * (block + of_a_block) - block_input if checkpointing else 0,
        gradient_scratch=block_input + rows * _mlp_first(config) * small,
    )


def _block(config: ViTConfig, rows: int, small: int) -> int:
    width, attention_width = config.width, config.num_heads * config.attention_head_dim
    # The inputs of both norms, with mean and deviation of each row; the residual stream stays float32.
    kept = 2 * rows * (width + 2) * _FLOAT
    # What the two linear layers behind the norms see, then query, key, value, the answer and a logarithm a head.
    kept += 2 * rows * width * small + 4 * rows * attention_width * small + rows * config.num_heads * _FLOAT
    kept += rows * _MLP_TENSORS[config.activation] * config.mlp_size * small
    if config.layer_scale_init is not None:
        kept += 2 * rows * width * small
    if config.dropout_rate:  # masks, as wide as what they multiply
        kept += rows * (2 * width + config.mlp_size) * small
    return kept


# Tensors of mlp_size that are kept between the two layers: what goes into the activation, what it needs besides, and
# what comes out. ReLU keeps its answer alone.
_MLP_TENSORS = {"gelu": 2, "gelu_tanh": 2, "quick_gelu": 3, "relu": 1, "swiglu": 4}


def _stem(config: ViTConfig, batch_size: int, small: int) -> int:
    # Into the norm, into the activation, out of it: the next convolution's input. ReLU keeps its answer alone.
    tensors = 2 if config.activation == "relu" else 3
    kept = sum(tensors * channels * pixels * small for _, channels, pixels in _stem_layers(config)) * batch_size
    if config.dropout_rate:
        kept += batch_size * config.num_tokens * config.width * _FLOAT
    if config.input_norm:
        kept += batch_size * config.num_tokens * (config.width + 2) * _FLOAT
    if config.patch_norm:
        kept += batch_size * config.num_patches * (_patch_kernel(config) + config.width) * _FLOAT
    return kept


def _head(config: ViTConfig, batch_size: int, rows: int, small: int) -> int:
    kept = rows * (config.width + 2) * _FLOAT if config.block_style == "pre_norm" and config.pooling != "avg" else 0
    if config.pooling == "map":
        kept += rows * (config.width + 2 * config.num_heads * config.attention_head_dim) * small
    elif config.pooling in ("token", "token_and_gap") and small == _FLOAT and not config.distillation_token:
        kept += rows * config.width * _FLOAT  # the class token is a view of all tokens, which it keeps alive
    kept += batch_size * (config.pooled_width + (config.pre_logits_size or 0)) * small
    return kept + 4 * batch_size * config.num_classes * _FLOAT  # logits, their logarithms, targets, smoothed targets


def _cast_weights(config: ViTConfig, small: int) -> tuple[int, int]:
    """Bytes of the bfloat16 copies of (one block's kernels, all others)."""
    if small == _FLOAT:
        return 0, 0
    attention = 4 * config.width * config.num_heads * config.attention_head_dim
    block = attention + config.width * (_mlp_first(config) + config.mlp_size)
    outside = _patch_kernel(config) * config.width + config.pooled_width * (config.pre_logits_size or 0)
    outside += sum(inputs * channels for inputs, channels, _ in _stem_layers(config))
    outside += block if config.pooling == "map" else 0
    return 2 * block, 2 * (outside + config.num_features * config.num_classes)
