"""The Vision Transformer (Dosovitskiy et al. 2021, "An image is worth 16x16 words"); state-dict keys follow timm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.layers.attention import Attention
from vitrail.layers.axial_attention import AxialBlock
from vitrail.layers.block import Block
from vitrail.layers.conv_stem import ConvStem
from vitrail.layers.heads import ClassifierHead, PreLogits
from vitrail.layers.initialization import initialize_layers
from vitrail.layers.mlp import Mlp
from vitrail.layers.patch_embed import PatchEmbed
from vitrail.layers.pooling import AttentionPool, mean_of_patches
from vitrail.layers.position_embed import LearnedPositions2D, sincos_2d, spread_positions
from vitrail.layers.resnet_stem import ResNetRoot, ResNetStem
from vitrail.models.config import ViTConfig


class VisionTransformer(nn.Module):
    """An encoder of pictures, and a head on it.

    The sequence is [class, distillation, registers..., patches in raster order], each part where the config has it.

    Args:
        config: the architecture.
        generator: draws the initial weights, the reference's (see `initialize`); None: torch's global generator. Equal
            generators give equal weights.
        initialize: False leaves the parameters unfilled, for a caller that loads every one of them.

    Attributes:
        config: as given.
        gradient_checkpointing: True trades time for memory: blocks are computed again in the backward pass.
    """

    pos_embed: nn.Parameter | Tensor | LearnedPositions2D | None

    def __init__(self, config: ViTConfig, *, generator: torch.Generator | None = None, initialize: bool = True) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        device = torch.get_default_device()
        # Laid out without storage first: torch's own initialisation would cost as much again as the reference's, and
        # would draw from the global generator.
        with torch.device("meta"):
            self._build(config)
        # Not `to_empty`, which imports sympy for the shape of what it lays out: half a second of every start.
        self._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
        if config.position_embedding.startswith("sincos"):
            # Not a parameter and not in the state dict: the config alone determines it.
            table = sincos_2d(config.grid, config.width, config.position_embedding)  # type: ignore[arg-type]
            self.register_buffer("pos_embed", table.to(torch.get_default_dtype()), persistent=False)
        if initialize:
            self.initialize(generator)

    def _build(self, config: ViTConfig) -> None:
        width = config.width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, width)) if config.distillation_token else None
        self.reg_token = (
            nn.Parameter(torch.empty(1, config.num_register_tokens, width)) if config.num_register_tokens else None
        )
        num_tables = config.depth if config.position_placement == "every_layer" else 1
        if config.position_embedding == "learned_1d":
            rows = config.num_position_prefix + config.num_patches
            self.pos_embed = nn.Parameter(torch.empty(num_tables, rows, width))
        elif config.position_embedding == "learned_2d":
            self.pos_embed = LearnedPositions2D(num_tables, config.grid, width, config.num_position_prefix)
        elif not config.position_embedding.startswith("sincos"):
            self.pos_embed = None
        self.patch_embed = _patch_embed(config)
        self.pos_drop = nn.Dropout(config.dropout_rate)
        self.norm_pre = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.input_norm else nn.Identity()
        make_block = _axial_block if config.attention == "axial" else _block
        self.blocks = nn.ModuleList(make_block(config, index) for index in range(config.depth))
        # A post-norm block ends with a norm, and "avg" pools first: neither needs one more here.
        has_norm = config.block_style == "pre_norm" and config.pooling != "avg"
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if has_norm else nn.Identity()
        self.attn_pool = _attention_pool(config) if config.pooling == "map" else None
        has_fc_norm = config.pooling == "avg"
        self.fc_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if has_fc_norm else nn.Identity()
        self.pre_logits = (
            nn.Identity() if config.pre_logits_size is None else PreLogits(config.pooled_width, config.pre_logits_size)
        )
        self.head = _head(config)
        self.head_dist = _head(config) if config.distillation_token else None

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fill every parameter as the reference does (Dosovitskiy et al. 2021, Flax code of vision_transformer).

        LeCun normal patch projection; Xavier uniform on query, key, value, output and MLP kernels, each on its own; MLP
        biases of standard deviation 1e-6; positions and registers of 0.02; class token, head kernel and all other
        biases zero; the head's bias head_bias_init.
        """
        initialize_layers(self, generator)
        for token in (self.cls_token, self.dist_token):
            if token is not None:
                nn.init.zeros_(token)
        # Registers that start equal would stay equal: nothing else tells them apart.
        for table in (self.reg_token, self.pos_embed):
            if isinstance(table, nn.Parameter):
                nn.init.normal_(table, std=0.02, generator=generator)

    def positions(self) -> Tensor | None:
        """What is added to the tokens: (1, tokens, width), or (depth, tokens, width) where every layer has its own.

        None where nothing is added. Prefix tokens without a position have rows of zeros.
        """
        if self.pos_embed is None:
            return None
        table = self.pos_embed() if isinstance(self.pos_embed, LearnedPositions2D) else self.pos_embed
        learned = self.config.position_embedding.startswith("learned")
        table_prefix = self.config.num_position_prefix if learned else 0
        return spread_positions(table, table_prefix, self.config.num_prefix_tokens)

    def assemble(self, patches: Tensor) -> Tensor:
        """Embedded patches (batch, patches, width) -> the encoder's input z_0, (batch, tokens, width).

        Puts the prefix tokens in front, adds the positions, applies the first dropout and, with input_norm, its norm.
        """
        prefix = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        tokens = torch.cat([*(t.expand(patches.shape[0], -1, -1) for t in prefix), patches], dim=1)
        positions = self.positions()
        return self.norm_pre(self.pos_drop(tokens if positions is None else tokens + positions[:1]))

    def embed(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> the encoder's input z_0, (batch, tokens, width).

        Raises:
            ValueError: pictures of another shape than the config's, or of whole numbers.
        """
        self._check(images)
        return self.assemble(self.patch_embed(images))

    def encode(self, tokens: Tensor, *, is_causal: bool = False) -> Tensor:
        """z_0 (batch, tokens, width) -> the tokens after the last block and the final norm, same shape.

        Any subset of the tokens will do, unless positions are added in every layer or are relative, or attention is
        axial.

        Args:
            is_causal: a token sees itself and those before it alone: for training by prediction of the next patch.
        """
        positions = self.positions()
        for index, block in enumerate(self.blocks):
            tokens = self._run_block(index, block, tokens, positions, is_causal)
        return self.norm(tokens)

    def _run_block(
        self, index: int, block: nn.Module, tokens: Tensor, positions: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        tokens = self._block_input(index, tokens, positions)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, is_causal, use_reentrant=False)
        return block(tokens, is_causal)

    def _block_input(self, index: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        if index == 0 or positions is None or self.config.position_placement == "input":
            return tokens  # z_0 holds the first layer's positions already
        if self.config.position_placement == "every_layer_shared":
            return tokens + positions
        return tokens + positions[index : index + 1]

    def _check(self, images: Tensor) -> None:
        expected = (self.config.in_channels, *self.config.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"pictures of shape {tuple(images.shape)} are not (batch, channels, height, width) with {expected}: "
                "resize them, or build the model with their image_size and in_channels"
            )
        if not images.is_floating_point():
            raise ValueError(f"pictures of {images.dtype} are not floating point: scale and normalise them first")

    def forward_features(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> tokens (batch, tokens, width) after the final norm.

        With pooling "avg" the norm comes after the mean, so the tokens are those of the last block.
        """
        return self.encode(self.embed(images))

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens of `forward_features` (batch, tokens, width) -> (batch, config.pooled_width), as config.pooling says.

        With a distillation token: the mean of the class and the distillation token.
        """
        if self.attn_pool is not None:
            return self.attn_pool(tokens[:, self.config.num_prefix_tokens :])
        if self.config.distillation_token:
            return (tokens[:, 0] + tokens[:, 1]) / 2
        if self.config.pooling == "token":
            return tokens[:, 0]
        if self.config.pooling == "token_and_gap":
            return torch.cat([tokens[:, 0], mean_of_patches(tokens, self.config.num_prefix_tokens)], dim=1)
        left_out = 0 if self.config.pool_prefix else self.config.num_prefix_tokens
        return self.fc_norm(mean_of_patches(tokens, left_out))

    def forward_head(self, tokens: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens of `forward_features` (batch, tokens, width) -> logits (batch, num_classes).

        Args:
            pre_logits: answer with what the head sees, (batch, num_features), the features used for linear probes.
        """
        if self.head_dist is not None and not pre_logits:
            by_class, by_distillation = self.forward_both_heads(tokens)
            return (by_class + by_distillation) / 2
        features = self.pre_logits(self.pool(tokens))
        return features if pre_logits else self.head(features)

    def forward_both_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class and of the distillation token, each (batch, num_classes): what distillation trains.

        Touvron et al. 2021, "Training data-efficient image transformers", section 4. The model's answer is their mean.

        Raises:
            ValueError: the config has no distillation token.
        """
        if self.head_dist is None:
            raise ValueError("forward_both_heads needs a config with distillation_token")
        return self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> logits (batch, num_classes), or features where it is 0."""
        if self.training and self._num_pooled:
            return self.forward_head(self._encode_pooled(self.embed(images), self._num_pooled))
        return self.forward_head(self.forward_features(images))

    @property
    def _num_pooled(self) -> int:
        """How many tokens, the first ones, are all that pooling reads; 0: it reads others, or blocks need them all."""
        config = self.config
        needs_all = config.block_style != "pre_norm" or config.position_embedding == "relative"
        return 0 if needs_all or config.pooling != "token" else 1 + config.distillation_token

    def _encode_pooled(self, tokens: Tensor, count: int) -> Tensor:
        """As `encode`, but only the first `count` tokens: what the last block makes of the others nobody sees."""
        positions = self.positions()
        *earlier, last = self.blocks
        for index, block in enumerate(earlier):
            tokens = self._run_block(index, block, tokens, positions)
        assert isinstance(last, Block)
        tokens = self._block_input(len(earlier), tokens, positions)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self.norm(checkpoint(last.forward_first, tokens, count, use_reentrant=False))
        return self.norm(last.forward_first(tokens, count))

    def forward_intermediates(self, images: Tensor, layers: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Every stage of the way by name, each (batch, tokens, width).

        Args:
            images: (batch, channels, height, width).
            layers: blocks to keep, counted from 0, or from -1 backwards; None: all.

        Returns:
            "embed": z_0; "blocks.<i>": what block i gives, for the layers asked for; "norm": after the final norm.

        Raises:
            ValueError: a layer that does not exist.
        """
        wanted = self._layers(layers)
        positions = self.positions()
        tokens = self.embed(images)
        stages = {"embed": tokens}
        for index, block in enumerate(self.blocks):
            tokens = self._run_block(index, block, tokens, positions)
            if index in wanted:
                stages[f"blocks.{index}"] = tokens
        stages["norm"] = self.norm(tokens)
        return stages

    def attention_weights(self, images: Tensor, layers: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Attention weights by block, "blocks.<i>": (batch, heads, tokens, tokens), rows summing to 1.

        Args and errors as in `forward_intermediates`; ValueError too for axial attention, which has no such weights.
        """
        if self.config.attention == "axial":
            raise ValueError("attention 'axial' has weights along rows and columns, not of all tokens on all tokens")
        wanted = self._layers(layers)
        positions = self.positions()
        tokens = self.embed(images)
        weights = {}
        for index, block in enumerate(self.blocks):
            if index in wanted:
                assert isinstance(block, Block)
                weights[f"blocks.{index}"] = block.attention_weights(self._block_input(index, tokens, positions))
            tokens = self._run_block(index, block, tokens, positions)
        return weights

    def _layers(self, layers: Sequence[int] | None) -> set[int]:
        depth = self.config.depth
        for layer in layers or ():
            if not -depth <= layer < depth:
                raise ValueError(f"layer {layer} does not exist: the model has {depth} blocks, 0 to {depth - 1}")
        return set(range(depth)) if layers is None else {layer % depth for layer in layers}


def _patch_embed(config: ViTConfig) -> PatchEmbed:
    if config.stem == "patch":
        norm_eps = config.layer_norm_eps if config.patch_norm else None
        return PatchEmbed(
            config.in_channels, config.width, config.patch_size, bias=config.patch_bias, norm_eps=norm_eps
        )
    return PatchEmbed(
        config.stem_channels, config.width, config.patch_kernel_size, bias=config.patch_bias, backbone=_stem(config)
    )


def _stem(config: ViTConfig) -> nn.Module:
    if config.stem == "conv":
        return ConvStem(config.in_channels, config.stem_widths, config.stem_blocks, activation=config.activation)
    (width,) = config.stem_widths
    if not config.stem_blocks:
        return ResNetRoot(config.in_channels, width, numerics=config.stem_numerics)
    return ResNetStem(config.in_channels, width, config.stem_blocks, numerics=config.stem_numerics)


def _block(config: ViTConfig, index: int) -> Block:
    attn = Attention(
        config.width,
        config.num_heads,
        head_dim=config.attention_head_dim,
        qkv_bias=config.qkv_bias,
        dropout_rate=config.dropout_rate,
        attention_dropout_rate=config.attention_dropout_rate,
        relative_length=config.num_tokens if config.position_embedding == "relative" else None,
    )
    return Block(
        attn,
        Mlp(config.width, config.mlp_size, activation=config.activation, dropout_rate=config.dropout_rate),
        width=config.width,
        style=config.block_style,
        layer_norm_eps=config.layer_norm_eps,
        layer_scale_init=config.layer_scale_init,
        stochastic_depth_rate=config.stochastic_depth_rate * index / max(config.depth - 1, 1),
    )


def _axial_block(config: ViTConfig, index: int) -> AxialBlock:
    return AxialBlock(_block(config, index), _block(config, index), config.grid)


def _attention_pool(config: ViTConfig) -> AttentionPool:
    return AttentionPool(
        config.width,
        config.num_heads,
        config.attention_head_dim,
        Mlp(config.width, config.mlp_size, activation=config.activation),
        layer_norm_eps=config.layer_norm_eps,
    )


def _head(config: ViTConfig) -> nn.Module:
    if config.num_classes == 0:
        return nn.Identity()
    return ClassifierHead(config.num_features, config.num_classes, bias_init=config.head_bias_init)
