"""What a Vision Transformer is made of, as one frozen dataclass; free of torch, so that listing models is instant."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from vitrail.errors import ConfigError

Pooling = Literal["token", "gap", "avg", "map", "token_and_gap"]
PositionEmbedding = Literal[
    "none",
    "learned_1d",
    "learned_2d",
    "relative",
    "sincos_2d_big_vision",
    "sincos_2d_mae",
    "sincos_2d_moco",
]
AttentionKind = Literal["global", "axial"]
PositionPlacement = Literal["input", "every_layer", "every_layer_shared"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu"]
BlockStyle = Literal["pre_norm", "post_norm"]
Stem = Literal["patch", "conv", "resnet"]
StemNumerics = Literal["google", "timm"]

_CHOICES = {
    "attention": AttentionKind,
    "pooling": Pooling,
    "position_embedding": PositionEmbedding,
    "position_placement": PositionPlacement,
    "activation": Activation,
    "block_style": BlockStyle,
    "stem": Stem,
    "stem_numerics": StemNumerics,
}
# Field -> smallest value; None is allowed where it is the default.
_COUNTS = {
    "patch_size": 1,
    "in_channels": 1,
    "num_classes": 0,
    "width": 1,
    "depth": 1,
    "num_heads": 1,
    "head_dim": 1,
    "mlp_size": 1,
    "num_register_tokens": 0,
    "pre_logits_size": 1,
}
_FLAGS = (
    "class_token",
    "distillation_token",
    "pool_prefix",
    "position_for_prefix",
    "qkv_bias",
    "patch_bias",
    "patch_norm",
    "input_norm",
)
_RESNET_GROUPS = 32
_RATES = ("dropout_rate", "attention_dropout_rate", "stochastic_depth_rate")


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a Vision Transformer (Dosovitskiy et al. 2021, section 3.1; names follow timm).

    Raises:
        ConfigError: a field out of range, or one that contradicts another; the message names fields and values.
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
    # "global": a token sees all others. "axial": a block is two, each with its own MLP: in the first a token sees its
    # row of the grid, in the second its column (appendix D.6 of the paper; Ho et al. 2019). There are no prefix tokens.
    attention: AttentionKind = "global"
    # "token": class token after the final norm. "gap": mean of the patch tokens after the final norm (big_vision).
    # "avg": mean of the patch tokens, then the norm (timm's fc_norm). "map": attention pooling of the patch tokens
    # with a learned probe, after the final norm. "token_and_gap": class token and mean of the patch tokens after the
    # final norm, side by side (the linear heads of DINOv2).
    pooling: Pooling = "token"
    # "gap" and "avg" take the mean of all tokens, the prefix tokens too (older vit-pytorch).
    pool_prefix: bool = False
    class_token: bool = True
    num_register_tokens: int = 0
    distillation_token: bool = False
    position_embedding: PositionEmbedding = "learned_1d"
    position_placement: PositionPlacement = "input"
    # Whether the class (and distillation) token gets a row of a learned position table: the paper's code gives it one,
    # big_vision and DeiT-III do not. Register tokens never have one.
    position_for_prefix: bool = True
    pre_logits_size: int | None = None  # None: no hidden head layer; otherwise Linear + tanh of this width
    # "quick_gelu": x * sigmoid(1.702 x), as OpenAI trained CLIP. "swiglu": silu(first half) * second half of a first
    # layer of twice mlp_size (Shazeer 2020; DINOv2's giant).
    activation: Activation = "gelu"
    block_style: BlockStyle = "pre_norm"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    layer_scale_init: float | None = None  # None: no LayerScale
    dropout_rate: float = 0.0  # after the positions, after the attention's projection, twice in the MLP
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0  # of the last block; grows linearly with depth from 0
    # A norm of each flat patch before its projection and one of each token after it (vit-pytorch).
    patch_norm: bool = False
    patch_bias: bool = True  # of the patch projection; CLIP's has none
    # A norm of all tokens, with their positions, before the first block (Radford et al. 2021, section 2.4: CLIP).
    input_norm: bool = False
    stem: Stem = "patch"
    # For stem "conv": the channels of its 3x3 convolutions of stride 2; 2 ** len(stem_widths) divides patch_size and
    # the patch embedding's own kernel covers what remains of it (Xiao et al. 2021, "Early convolutions").
    # For stem "resnet", the hybrids: the channels of its root alone, (64,) for width factor 1 (section 3.1).
    stem_widths: tuple[int, ...] = ()
    # "conv": residual 3x3 blocks after each of these convolutions; (): none. "resnet": units of each stage, (3, 4, 9)
    # for the lengthened third stage; (): the root alone. patch_size is the stride of a token in pixels, of the whole.
    stem_blocks: tuple[int, ...] = ()
    # Small numbers of stem "resnet", see `ResNetStem`: those of vision_transformer or those that timm computes.
    stem_numerics: StemNumerics = "google"
    head_bias_init: float = 0.0

    def __post_init__(self) -> None:
        _check_types_and_ranges(self)
        _check_geometry(self)
        _check_tokens(self)
        _check_positions(self)
        if self.attention == "axial":
            _check_axial(self)

    @property
    def family(self) -> str:
        """What it is, in words that go after "a"."""
        return "Vision Transformer" + (" with axial attention" if self.attention == "axial" else "")

    @property
    def side_multiple(self) -> int:
        """What must divide the sides of a picture."""
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patch tokens of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class, distillation and register tokens, in this order."""
        return int(self.class_token) + int(self.distillation_token) + self.num_register_tokens

    @property
    def num_tokens(self) -> int:
        """Length of the sequence the encoder sees."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def num_position_prefix(self) -> int:
        """Rows of a learned position table that belong to prefix tokens."""
        if not self.position_for_prefix:
            return 0
        return int(self.class_token) + int(self.distillation_token)

    @property
    def attention_head_dim(self) -> int:
        """Features of one head: head_dim, or width / num_heads."""
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def patch_kernel_size(self) -> int:
        """Side of the patch projection's kernel: patch_size, or what a convolutional stem leaves of it."""
        return self.patch_size // self.stem_stride

    @property
    def stem_stride(self) -> int:
        """Pixels of the picture for a cell of what the patch projection sees, along a side."""
        if self.stem == "resnet":
            return 4 * 2 ** max(0, len(self.stem_blocks) - 1)  # the root's, and every stage's but the first
        return 2 ** len(self.stem_widths)

    @property
    def stem_channels(self) -> int:
        """Channels of what the patch projection sees."""
        if self.stem == "resnet" and self.stem_blocks:
            return 4 * self.stem_widths[0] * 2 ** (len(self.stem_blocks) - 1)
        return self.stem_widths[-1] if self.stem_widths else self.in_channels

    @property
    def num_features(self) -> int:
        """Width of what the head sees."""
        return self.pooled_width if self.pre_logits_size is None else self.pre_logits_size

    @property
    def pooled_width(self) -> int:
        """Width of what pooling gives."""
        return 2 * self.width if self.pooling == "token_and_gap" else self.width


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_types_and_ranges(config: ViTConfig) -> None:
    defaults = {field.name: field.default for field in fields(config)}
    for name, choices in _CHOICES.items():
        value = getattr(config, name)
        if value not in get_args(choices):
            raise ConfigError(f"{name} {value!r} is none of {', '.join(get_args(choices))}")
    for name, smallest in _COUNTS.items():
        value = getattr(config, name)
        if value is None and defaults[name] is None:
            continue
        if not _is_int(value) or value < smallest:
            raise ConfigError(f"{name} {value!r} is not a whole number of at least {smallest}")
    for name in _FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} {getattr(config, name)!r} is neither True nor False")
    for name in _RATES:
        value = getattr(config, name)
        if not _is_number(value) or not 0.0 <= value < 1.0:
            raise ConfigError(f"{name} {value!r} is not a probability of at least 0 and below 1")
    if not _is_number(config.layer_norm_eps) or config.layer_norm_eps <= 0.0:
        raise ConfigError(f"layer_norm_eps {config.layer_norm_eps!r} is not a number above 0")
    if config.layer_scale_init is not None and not _is_number(config.layer_scale_init):
        raise ConfigError(f"layer_scale_init {config.layer_scale_init!r} is neither None nor a finite number")
    if not _is_number(config.head_bias_init):
        raise ConfigError(f"head_bias_init {config.head_bias_init!r} is not a finite number")
    size = config.image_size
    if not isinstance(size, tuple) or len(size) != 2 or not all(_is_int(side) and side > 0 for side in size):
        raise ConfigError(f"image_size {size!r} is not (height, width) in whole pixels")
    for name, smallest in (("stem_widths", 1), ("stem_blocks", 0)):
        counts = getattr(config, name)
        if not isinstance(counts, tuple) or not all(_is_int(count) and count >= smallest for count in counts):
            raise ConfigError(f"{name} {counts!r} is not a tuple of whole numbers of at least {smallest}")


def _check_geometry(config: ViTConfig) -> None:
    height, width = config.image_size
    if height % config.patch_size or width % config.patch_size:
        raise ConfigError(
            f"patch_size {config.patch_size} does not divide image_size {height} x {width}: "
            "choose sides that are multiples of it"
        )
    if config.head_dim is None and config.width % config.num_heads:
        raise ConfigError(
            f"width {config.width} is not divisible by num_heads {config.num_heads}: change one, or give head_dim"
        )
    if config.patch_norm and config.stem != "patch":
        raise ConfigError(f"patch_norm belongs to stem 'patch', not {config.stem!r}")
    if config.stem == "patch" and (config.stem_widths or config.stem_blocks):
        raise ConfigError(
            f"stem_widths {config.stem_widths} and stem_blocks {config.stem_blocks} belong to stem 'conv' or 'resnet', "
            "and stem is 'patch'"
        )
    if config.stem != "resnet" and config.stem_numerics != "google":
        raise ConfigError(f"stem_numerics {config.stem_numerics!r} belongs to stem 'resnet', not {config.stem!r}")
    if config.stem == "conv":
        _check_conv_stem(config)
    elif config.stem == "resnet":
        _check_resnet_stem(config)


def _check_conv_stem(config: ViTConfig) -> None:
    if config.activation == "swiglu":
        raise ConfigError("activation 'swiglu' belongs to the MLPs and does not go with stem 'conv'")
    if not config.stem_widths:
        raise ConfigError("stem 'conv' needs stem_widths, the channels of its convolutions, and they are empty")
    if config.stem_blocks and len(config.stem_blocks) != len(config.stem_widths):
        raise ConfigError(
            f"stem_blocks {config.stem_blocks} needs one number for each of stem_widths {config.stem_widths}"
        )
    if config.patch_size % config.stem_stride:
        raise ConfigError(
            f"the {len(config.stem_widths)} convolutions of stride 2 in stem_widths {config.stem_widths} need a "
            f"patch_size that {config.stem_stride} divides, not {config.patch_size}"
        )


def _check_resnet_stem(config: ViTConfig) -> None:
    if len(config.stem_widths) != 1 or config.stem_widths[0] % _RESNET_GROUPS:
        raise ConfigError(
            f"stem 'resnet' needs stem_widths of one number that {_RESNET_GROUPS}, the groups of its norms, divides, "
            f"as (64,), not {config.stem_widths}"
        )
    if 0 in config.stem_blocks:
        raise ConfigError(f"stem_blocks {config.stem_blocks} has a stage without units; stem 'resnet' has one at least")
    if config.patch_size % config.stem_stride:
        raise ConfigError(
            f"the ResNet of stem_blocks {config.stem_blocks} has a stride of {config.stem_stride}, which must divide "
            f"patch_size, the stride of a token: {config.patch_size} does not do"
        )


def _check_tokens(config: ViTConfig) -> None:
    if config.pooling in ("token", "token_and_gap") and not config.class_token:
        raise ConfigError(
            f"pooling {config.pooling!r} reads the class token, and class_token is False: choose 'gap', 'avg' or 'map'"
        )
    if config.pool_prefix and config.pooling not in ("gap", "avg"):
        raise ConfigError(f"pool_prefix belongs to pooling 'gap' or 'avg', not {config.pooling!r}")
    if config.distillation_token:
        if config.pooling != "token":
            raise ConfigError(f"distillation_token needs pooling 'token', not {config.pooling!r}")
        if config.pre_logits_size is not None:
            raise ConfigError(
                f"distillation_token has a head of its own: it does not go with pre_logits_size "
                f"{config.pre_logits_size}"
            )


def _check_positions(config: ViTConfig) -> None:
    kind, placement = config.position_embedding, config.position_placement
    if kind in ("none", "relative") and placement != "input":
        raise ConfigError(
            f"position_embedding {kind!r} is added to no token: position_placement {placement!r} does not apply, "
            "leave it at 'input'"
        )
    if kind.startswith("sincos") and placement == "every_layer":
        raise ConfigError(
            f"position_embedding {kind!r} is the same in every layer: use position_placement 'every_layer_shared'"
        )
    if kind == "learned_2d" and config.width % 2:
        raise ConfigError(f"position_embedding 'learned_2d' needs an even width, not {config.width}")
    if kind.startswith("sincos") and config.width % 4:
        raise ConfigError(f"position_embedding {kind!r} needs a width that 4 divides, not {config.width}")
    if kind == "sincos_2d_big_vision" and config.width < 8:
        raise ConfigError(f"position_embedding {kind!r} needs a width of at least 8, not {config.width}")


def _check_axial(config: ViTConfig) -> None:
    if config.num_prefix_tokens:
        raise ConfigError(
            "attention 'axial' is along the rows and columns of the grid, where other tokens than patches have no "
            f"place: class_token {config.class_token}, distillation_token {config.distillation_token} and "
            f"num_register_tokens {config.num_register_tokens} must be False, False and 0; pool with 'gap', 'avg' or "
            "'map'"
        )
    if config.position_embedding == "relative":
        raise ConfigError(
            "position_embedding 'relative' counts along the whole sequence, which attention 'axial' does not see: "
            "choose another"
        )
