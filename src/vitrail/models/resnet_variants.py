"""The named sizes of BiT's ResNets: "BiT-R50x1" -> config. Free of torch, so that listing them is instant."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.resnet_config import ResNetConfig

# Layers -> units of each stage: 50 to 152 of He et al. 2016, 200 of He et al. 2016b; 26 of Steiner et al. 2021.
DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

# Those of Kolesnikov et al. 2020 and the baselines of Dosovitskiy et al. 2021; `get_resnet_config` knows every other
# width as well.
WIDTH_FACTORS = {26: (1,), 50: (1, 2, 3), 101: (1, 3), 152: (1, 2, 4), 200: (3,)}

TIMM_NAMES = {
    "resnetv2_50x1_bit": "BiT-R50x1",
    "resnetv2_50x3_bit": "BiT-R50x3",
    "resnetv2_101x1_bit": "BiT-R101x1",
    "resnetv2_101x3_bit": "BiT-R101x3",
    "resnetv2_152x2_bit": "BiT-R152x2",
    "resnetv2_152x4_bit": "BiT-R152x4",
}
TIMM_STD_CONV_EPS = 1e-8  # under the root of a kernel's variance, where BiT's code has 1e-10


@dataclass(frozen=True)
class ResNetVariant:
    """One line of the registry: a name, its architecture at 224 x 224 pixels with 1000 classes, its names in timm."""

    name: str
    config: ResNetConfig
    timm_names: tuple[str, ...]


RESNET_VARIANTS = {
    name: ResNetVariant(
        name,
        ResNetConfig(depths=DEPTHS[layers], width_factor=float(factor)),
        tuple(timm_name for timm_name, own_name in TIMM_NAMES.items() if own_name == name),
    )
    for layers, factors in WIDTH_FACTORS.items()
    for factor in factors
    for name in (f"BiT-R{layers}x{factor}",)
}

_NAME = re.compile(r"BiT-R(?P<layers>\d+)x(?P<factor>\d+(?:\.\d+)?)(?:@(?P<height>[1-9]\d*)(?:x(?P<width>[1-9]\d*))?)?")


def is_resnet(name: str) -> bool:
    """Whether a name is of this registry, right or not."""
    return name.startswith(("BiT-", "resnetv2_"))


def get_resnet_config(name: str) -> ResNetConfig:
    """The config of a ResNet, with 1000 classes.

    Args:
        name: "BiT-R50x1" with any depth of `DEPTHS` and any width factor; "BiT-R50x1@448" for another picture size,
            "BiT-R50x1@256x384" for height x width; or timm's name, "resnetv2_50x1_bit", which gives timm's numerics.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    match = _NAME.fullmatch(TIMM_NAMES.get(name, name))
    if match is None or int(match["layers"]) not in DEPTHS:
        near = did_you_mean(name, [*RESNET_VARIANTS, *TIMM_NAMES])
        raise ConfigError(f"unknown model {name!r}.{near} Depths: BiT-R{{{','.join(map(str, DEPTHS))}}}x1.")
    config = ResNetConfig(depths=DEPTHS[int(match["layers"])], width_factor=float(match["factor"]))
    if name in TIMM_NAMES:
        config = replace(config, std_conv_eps=TIMM_STD_CONV_EPS)
    height = int(match["height"] or config.image_size[0])
    return replace(config, image_size=(height, int(match["width"] or match["height"] or config.image_size[1])))
