"""What an Axial-ResNet is made of, and its named sizes; free of torch, so that listing models is instant."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.resnet_config import NUM_GROUPS, ResNetConfig


@dataclass(frozen=True)
class AxialResNetConfig(ResNetConfig):
    """Architecture of a ResNet in which attention along rows, then columns, stands for every 3x3 convolution.

    Dosovitskiy et al. 2021, appendix D.6, after Wang et al. 2020, "Axial-DeepLab". A unit's middle has half the
    channels of its result, twice as many as a ResNet's; otherwise the shape is that of a ResNet of the same
    width_factor. Wang's code norms over the batch; here every norm is a group norm over one picture and kernels are
    standardised, as in the ResNets of Dosovitskiy et al., which leaves the number of parameters as it was. Wang's code
    attends along columns first, the paper's words are rows first: so it is here.

    Raises:
        ConfigError: a field out of range; the message names field and value.
    """

    num_heads: int = 8
    kind: str = "axial_resnet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % self.side_multiple for side in self.image_size):
            raise ConfigError(
                f"image_size {self.image_size[0]} x {self.image_size[1]} must be multiples of {self.side_multiple}: "
                "positions belong to the cells of each stage, which halves them"
            )

    def _check_width(self) -> None:
        if type(self.num_heads) is not int or self.num_heads < 1:
            raise ConfigError(f"num_heads {self.num_heads!r} is not a whole number of at least 1")
        if 64 * self.width_factor % self.num_heads:
            raise ConfigError(
                f"width_factor {self.width_factor} gives a root of {64 * self.width_factor:g} channels, which must be "
                f"a multiple of num_heads {self.num_heads}"
            )

    @property
    def family(self) -> str:
        """What it is, in words that go after "a"."""
        return "ResNet with axial attention"

    @property
    def num_groups(self) -> int:
        """Groups of every norm around the attention: as many of 32 as divide the channels."""
        return math.gcd(NUM_GROUPS, self.root_width)

    @property
    def side_multiple(self) -> int:
        """What must divide the sides of a picture: pixels of a cell of the last feature map."""
        return 2 ** (len(self.depths) + 1)


@dataclass(frozen=True)
class AxialResNetVariant:
    """One line of the registry: a name, and its architecture at 224 x 224 pixels with 1000 classes."""

    name: str
    config: AxialResNetConfig
    timm_names: tuple[str, ...] = ()


# Those of Wang et al. 2020. Dosovitskiy et al. name no width of their Axial-ResNet-50; 50-L has a ResNet-50's channels.
AXIAL_RESNETS = {
    name: AxialResNetVariant(name, AxialResNetConfig(depths=depths, width_factor=factor))
    for name, depths, factor in (
        ("Axial-ResNet-26-S", (1, 2, 4, 1), 0.5),
        ("Axial-ResNet-50-S", (3, 4, 6, 3), 0.5),
        ("Axial-ResNet-50-M", (3, 4, 6, 3), 0.75),
        ("Axial-ResNet-50-L", (3, 4, 6, 3), 1.0),
    )
}

_SIZE = re.compile(r"(?P<height>[1-9]\d*)(?:x(?P<width>[1-9]\d*))?")


def is_axial_resnet(name: str) -> bool:
    """Whether a name is of this registry, right or not."""
    return name.startswith("Axial-R")


def get_axial_resnet_config(name: str) -> AxialResNetConfig:
    """The config of an Axial-ResNet, with 1000 classes.

    Args:
        name: of `AXIAL_RESNETS`; with "@448" for another picture size, "@256x384" for height x width.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    known, at, size = name.partition("@")
    match = _SIZE.fullmatch(size)
    if known not in AXIAL_RESNETS or bool(at) != bool(match):
        raise ConfigError(f"unknown model {name!r}.{did_you_mean(name, AXIAL_RESNETS)}")
    config = AXIAL_RESNETS[known].config
    if match is None:
        return config
    return replace(config, image_size=(int(match["height"]), int(match["width"] or match["height"])))
