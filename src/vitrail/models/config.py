"""What a Vision Transformer is made of, as one frozen dataclass; free of torch, so that listing models is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["token", "gap", "avg", "map"]
PositionEmbedding = Literal[
    "none",
    "learned_1d",
    "learned_2d",
    "relative",
    "sincos_2d_big_vision",
    "sincos_2d_mae",
    "sincos_2d_moco",
]
PositionPlacement = Literal["input", "every_layer", "every_layer_shared"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
BlockStyle = Literal["pre_norm", "post_norm"]
Stem = Literal["patch", "conv"]


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a Vision Transformer (Dosovitskiy et al. 2021, section 3.1; names follow timm).

    Raises:
        ValueError: a field that contradicts another, named with both values.
    """

    image_size: tuple[int, int] = (224, 224)  # (height, width) in pixels
    patch_size: int = 16  # pixels; divides both sides of image_size
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the model answers with features
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    head_dim: int | None = None  # None: width / num_heads
    mlp_size: int = 3072
    # "token": class token after the final norm. "gap": mean of the patch tokens after the final norm (big_vision).
    # "avg": mean of the patch tokens, then the norm (timm's fc_norm). "map": attention pooling with a learned probe.
    pooling: Pooling = "token"
    class_token: bool = True
    num_register_tokens: int = 0
    distillation_token: bool = False
    position_embedding: PositionEmbedding = "learned_1d"
    position_placement: PositionPlacement = "input"
    # Whether the class (and distillation) token gets a row of the position table: the paper's code gives it one,
    # big_vision and DeiT-III do not.
    position_for_prefix: bool = True
    pre_logits_size: int | None = None  # None: no hidden head layer; otherwise Linear + tanh of this width
    activation: Activation = "gelu"
    block_style: BlockStyle = "pre_norm"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    layer_scale_init: float | None = None  # None: no LayerScale
    dropout_rate: float = 0.0  # after the positions, after the attention's projection, twice in the MLP
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0  # of the last block; grows linearly with depth from 0
    stem: Stem = "patch"
    # For stem "conv": the channels of its 3x3 convolutions of stride 2; 2 ** len(stem_widths) divides patch_size and
    # the patch embedding's own kernel covers what remains of it (Xiao et al. 2021, "Early convolutions").
    stem_widths: tuple[int, ...] = ()
    stem_blocks: int = 0  # residual 3x3 blocks after each of the stem's convolutions
    head_bias_init: float = 0.0
