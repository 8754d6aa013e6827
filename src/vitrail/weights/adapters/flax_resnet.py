"""The ResNet of a hybrid under the names of Google's Flax code: conv_root, gn_root, block1/unit1/conv1, ..."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.mapping import HWIO, Codec, Entry

RESNET_ROOT = "conv_root/kernel"
RESNET_ROOT = "conv_root/kernel"


def resnet_entries(config: ViTConfig, prefix: str) -> Iterator[Entry]:
    """How every tensor of the stem is named; stages and units count from 1."""
    native = "patch_embed.backbone."
    root = f"{native}stem." if config.stem_blocks else native
    yield Entry(f"{root}conv.weight", (f"{prefix}{RESNET_ROOT}",), HWIO)
    yield from _group_norm(f"{root}norm", f"{prefix}gn_root")
    for stage, num_units in enumerate(config.stem_blocks):
        for index in range(num_units):
            unit = f"{native}stages.{stage}.blocks.{index}."
            theirs = f"{prefix}block{stage + 1}/unit{index + 1}/"
            layers = {f"conv{number}": f"conv{number}" for number in (1, 2, 3)}
            norms = {f"norm{number}": f"gn{number}" for number in (1, 2, 3)}
            if index == 0:
                layers["downsample.conv"], norms["downsample.norm"] = "conv_proj", "gn_proj"
            for name, foreign in layers.items():
                yield Entry(f"{unit}{name}.weight", (f"{theirs}{foreign}/kernel",), HWIO)
            for name, foreign in norms.items():
                yield from _group_norm(f"{unit}{name}", f"{theirs}{foreign}")


def _group_norm(native: str, foreign: str) -> Iterator[Entry]:
    yield Entry(f"{native}.weight", (f"{foreign}/scale",), _CHANNELS)
    yield Entry(f"{native}.bias", (f"{foreign}/bias",), _CHANNELS)


def _decode(values: Tensor) -> Tensor:
    # Files of the first paper keep them as (1, 1, 1, channels).
    if values.numel() != values.shape[-1]:
        raise ValueError("it has other axes than that of the channels")
    return values.flatten()


_CHANNELS = Codec(_decode, lambda values: (values,))
