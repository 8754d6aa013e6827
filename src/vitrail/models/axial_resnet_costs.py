"""What an Axial-ResNet costs, by formula: parameters and multiply-adds. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator

from vitrail.models.axial_resnet_config import AxialResNetConfig
from vitrail.models.resnet_config import EXPANSION


def count_parameters(config: AxialResNetConfig) -> int:
    """Learned numbers of the model."""
    total = sum((inputs + 2) * outputs for inputs, outputs, _ in _convolutions(config))  # a norm behind each
    for middle, grid, _ in _units(config):
        for length in grid:
            # The kernel and its norm; positions; the norms of three logits and two answers.
            total += 2 * middle * (middle + 2) + (2 * length - 1) * 2 * (middle // config.num_heads)
            total += 3 * 2 * config.num_heads + 2 * 2 * middle
    return total + (config.num_features + 1) * config.num_classes


def count_macs(config: AxialResNetConfig) -> int:
    """Multiply-adds of one picture's forward pass: every convolution and product of matrices; FLOPs are about twice."""
    total = sum(inputs * outputs * pixels for inputs, outputs, pixels in _convolutions(config))
    for middle, (rows, columns), _ in _units(config):
        for length in (rows, columns):
            # Half a middle each for q.k, q.r and k.r, a whole one for both answers.
            total += rows * columns * (2 * middle * middle + 7 * length * middle // 2)
    return total + config.num_features * config.num_classes


def _convolutions(config: AxialResNetConfig) -> Iterator[tuple[int, int, int]]:
    """(values under the kernel, channels out, pixels of the result) of every convolution outside the attention."""
    height, width = config.image_size
    yield 49 * config.in_channels, config.root_width, height * width // 4
    channels = config.root_width
    for middle, (rows, columns), stride in _units(config):
        out_channels = 2 * middle
        pixels = rows * columns // stride**2
        yield channels, middle, rows * columns
        if channels != out_channels:
            yield channels, out_channels, pixels  # the shortcut
        yield middle, out_channels, pixels
        channels = out_channels


def _units(config: AxialResNetConfig) -> Iterator[tuple[int, tuple[int, int], int]]:
    """(channels of the middle, rows and columns that come in, stride) of every unit."""
    height, width = (side // 4 for side in config.image_size)
    for stage, depth in enumerate(config.depths):
        middle = EXPANSION * config.root_width * 2**stage // 2
        for unit in range(depth):
            stride = 2 if stage > 0 and unit == 0 else 1
            yield middle, (height, width), stride
            height, width = height // stride, width // stride
