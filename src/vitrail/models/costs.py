"""What a config costs, by formula: parameters and multiply-adds. Free of torch, so that listing models is instant."""

from __future__ import annotations

from vitrail.models.config import ViTConfig


def count_parameters(config: ViTConfig) -> int:
    """Learned numbers of the model; fixed position tables do not count."""
    width = config.width
    attention_width = config.num_heads * config.attention_head_dim
    qkv = 3 * attention_width * (width + config.qkv_bias)
    relative = (2 * config.num_tokens - 1) * config.attention_head_dim
    block = qkv + _linear(attention_width, width) + _mlp_parameters(config) + 2 * 2 * width
    block += relative if config.position_embedding == "relative" else 0
    block += 0 if config.layer_scale_init is None else 2 * width
    total = _num_blocks(config) * block + config.num_prefix_tokens * width + _position_parameters(config)
    total += _patch_embed_parameters(config)
    if config.block_style == "pre_norm" or config.pooling == "avg":
        total += 2 * width
    if config.input_norm:
        total += 2 * width
    if config.pooling == "map":
        # The probe, its query, the keys and values, the output, the norm and the MLP.
        total += width + 3 * _linear(width, attention_width) + _linear(attention_width, width)
        total += 2 * width + _mlp_parameters(config)
    if config.pre_logits_size is not None:
        total += _linear(config.pooled_width, config.pre_logits_size)
    num_heads = 2 if config.distillation_token else 1
    return total + (num_heads * _linear(config.num_features, config.num_classes) if config.num_classes else 0)


def count_macs(config: ViTConfig) -> int:
    """Multiply-adds of one picture's forward pass; FLOPs are about twice as many.

    Counts every matrix product and convolution, the two products inside the attention among them (which timm's figures
    leave out); norms, softmax, activations and sums are left out.
    """
    width, tokens = config.width, config.num_tokens
    attention_width = config.num_heads * config.attention_head_dim
    mlp = width * (_mlp_first(config) + config.mlp_size)
    # Tokens that one sees in the blocks of a layer, together.
    seen = sum(config.grid) if config.attention == "axial" else tokens
    layer = _num_blocks(config) // config.depth * tokens * (4 * width * attention_width + mlp)
    layer += 2 * tokens * seen * attention_width
    if config.position_embedding == "relative":
        layer += tokens * (2 * tokens - 1) * attention_width
    total = config.depth * layer + _patch_embed_macs(config)
    if config.pooling == "map":
        patches = config.num_patches
        total += 2 * (patches + 1) * width * attention_width + 2 * patches * attention_width + mlp
    if config.pre_logits_size is not None:
        total += config.pooled_width * config.pre_logits_size
    num_heads = 2 if config.distillation_token else 1
    return total + num_heads * config.num_features * config.num_classes


def _num_blocks(config: ViTConfig) -> int:
    return 2 * config.depth if config.attention == "axial" else config.depth


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _mlp_first(config: ViTConfig) -> int:
    return 2 * config.mlp_size if config.activation == "swiglu" else config.mlp_size


def _mlp_parameters(config: ViTConfig) -> int:
    return _linear(config.width, _mlp_first(config)) + _linear(config.mlp_size, config.width)


def _position_parameters(config: ViTConfig) -> int:
    num_tables = config.depth if config.position_placement == "every_layer" else 1
    if config.position_embedding == "learned_1d":
        return num_tables * (config.num_position_prefix + config.num_patches) * config.width
    if config.position_embedding == "learned_2d":
        halves = sum(config.grid) * (config.width // 2)
        return num_tables * (config.num_position_prefix * config.width + halves)
    return 0


def _stem_layers(config: ViTConfig) -> list[tuple[int, int, int]]:
    """(values under the kernel, channels out, pixels of the result) of every convolution of the stem."""
    if config.stem == "resnet":
        return _resnet_layers(config)
    layers = []
    channels, (height, width) = config.in_channels, config.image_size
    blocks = config.stem_blocks or (0,) * len(config.stem_widths)
    for out_channels, num_blocks in zip(config.stem_widths, blocks, strict=True):
        height, width = height // 2, width // 2
        layers.append((9 * channels, out_channels, height * width))
        layers.extend([(9 * out_channels, out_channels, height * width)] * (2 * num_blocks))
        channels = out_channels
    return layers


def _resnet_layers(config: ViTConfig) -> list[tuple[int, int, int]]:
    (root,), (height, width) = config.stem_widths, config.image_size
    layers = [(49 * config.in_channels, root, height * width // 4)]
    pixels, channels = height * width // 16, root
    for stage, num_units in enumerate(config.stem_blocks):
        middle = root * 2**stage
        for unit in range(num_units):
            before = pixels
            pixels //= 4 if unit == 0 and stage > 0 else 1
            if unit == 0:
                layers.append((channels, 4 * middle, pixels))  # the shortcut
            # The stride is on the 3x3 convolution.
            layers += [(channels, middle, before), (9 * middle, middle, pixels), (middle, 4 * middle, pixels)]
            channels = 4 * middle
    return layers


def _patch_kernel(config: ViTConfig) -> int:
    return config.patch_kernel_size**2 * config.stem_channels


def _patch_embed_parameters(config: ViTConfig) -> int:
    # A convolution of the stem has no bias; its group norm has a scale and a shift.
    stem = sum((inputs + 2) * outputs for inputs, outputs, _ in _stem_layers(config))
    norms = 2 * (_patch_kernel(config) + config.width) if config.patch_norm else 0
    return stem + norms + (_patch_kernel(config) + config.patch_bias) * config.width


def _patch_embed_macs(config: ViTConfig) -> int:
    stem = sum(inputs * outputs * pixels for inputs, outputs, pixels in _stem_layers(config))
    return stem + config.num_patches * _patch_kernel(config) * config.width
