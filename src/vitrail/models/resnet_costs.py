"""What a ResNet costs, by formula: parameters and multiply-adds. Free of torch, so that listing models is instant."""

from __future__ import annotations

from collections.abc import Iterator

from vitrail.models.resnet_config import EXPANSION, ResNetConfig


def count_parameters(config: ResNetConfig) -> int:
    """Learned numbers of the model."""
    total = sum(inputs * outputs for inputs, outputs, _ in _convolutions(config))
    channels = config.root_width
    for stage, depth in enumerate(config.depths):
        middle = config.root_width * 2**stage
        for _ in range(depth):
            total += 2 * (channels + 2 * middle)  # scale and shift of the three norms
            channels = EXPANSION * middle
    return total + 2 * channels + (channels + 1) * config.num_classes


def count_macs(config: ResNetConfig) -> int:
    """Multiply-adds of one picture's forward pass: every convolution and the head; FLOPs are about twice as many.

    The standardisation of the kernels, which is the same whatever the batch, is left out.
    """
    convolutions = sum(inputs * outputs * pixels for inputs, outputs, pixels in _convolutions(config))
    return convolutions + config.num_features * config.num_classes


def _convolutions(config: ResNetConfig) -> Iterator[tuple[int, int, int]]:
    """(values under the kernel, channels out, pixels of the result) of every convolution but the head."""
    height, width = (-(-side // 2) for side in config.image_size)
    yield 49 * config.in_channels, config.root_width, height * width
    height, width, channels = -(-height // 2), -(-width // 2), config.root_width
    for stage, depth in enumerate(config.depths):
        middle = config.root_width * 2**stage
        for unit in range(depth):
            yield channels, middle, height * width
            if unit == 0:
                if stage > 0:
                    height, width = -(-height // 2), -(-width // 2)
                yield channels, EXPANSION * middle, height * width  # the shortcut
            yield 9 * middle, middle, height * width  # with the stride
            yield middle, EXPANSION * middle, height * width
            channels = EXPANSION * middle
