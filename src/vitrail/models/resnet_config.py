"""What a BiT ResNet is made of, as one frozen dataclass; free of torch, so that listing models is instant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vitrail.errors import ConfigError

MaxPoolPadding = Literal["zero", "minus_infinity"]

NUM_GROUPS = 32
EXPANSION = 4  # channels of a unit's result for one of its middle


@dataclass(frozen=True)
class ResNetConfig:
    """Architecture of a pre-activation ResNet with group norm and standardised convolutions.

    Kolesnikov et al. 2020, "Big Transfer (BiT)", section 3.1; the baselines of Dosovitskiy et al. 2021.

    Raises:
        ConfigError: a field out of range; the message names field and value.
    """

    image_size: tuple[int, int] = (224, 224)  # (height, width) in pixels; the weights fit every size
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the model answers with features
    depths: tuple[int, ...] = (3, 4, 6, 3)  # units of each stage; a layer count of 50
    width_factor: float = 1.0  # of all channels; the root has 64 times as many
    std_conv_eps: float = 1e-10  # under the root of a kernel's variance; timm has 1e-8
    group_norm_eps: float = 1e-5
    # What the maximum of the root sees around its input. "zero": as BiT's code, where a border of negative values gives
    # zero; "minus_infinity": as big_vision's, where padding never wins.
    max_pool_padding: MaxPoolPadding = "zero"
    head_bias_init: float = 0.0  # starting value of the head's bias; its kernel starts at zero
    kind: str = "resnet"

    def __post_init__(self) -> None:
        size, depths = self.image_size, self.depths
        if not isinstance(size, tuple) or len(size) != 2 or not all(_is_count(side, 1) for side in size):
            raise ConfigError(f"image_size {size!r} is not (height, width) in whole pixels")
        if not isinstance(depths, tuple) or not depths or not all(_is_count(depth, 1) for depth in depths):
            raise ConfigError(f"depths {depths!r} is not a tuple of whole numbers of at least 1, one for each stage")
        for name, smallest in (("in_channels", 1), ("num_classes", 0)):
            if not _is_count(getattr(self, name), smallest):
                raise ConfigError(f"{name} {getattr(self, name)!r} is not a whole number of at least {smallest}")
        for name in ("width_factor", "std_conv_eps", "group_norm_eps"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not a number above 0")
        if not _is_number(self.head_bias_init):
            raise ConfigError(f"head_bias_init {self.head_bias_init!r} is not a finite number")
        self._check_width()
        if self.max_pool_padding not in get_args(MaxPoolPadding):
            known = ", ".join(get_args(MaxPoolPadding))
            raise ConfigError(f"max_pool_padding {self.max_pool_padding!r} is none of {known}")
        if self.kind != type(self).kind:
            raise ConfigError(f"kind {self.kind!r} is not {type(self).kind!r}")

    def _check_width(self) -> None:
        if 64 * self.width_factor % NUM_GROUPS:
            raise ConfigError(
                f"width_factor {self.width_factor} gives a root of {64 * self.width_factor:g} channels, which must "
                f"be a multiple of the {NUM_GROUPS} groups of the norms: choose a multiple of 0.5"
            )

    @property
    def side_multiple(self) -> int:
        """What must divide the sides of a picture."""
        return 1

    @property
    def num_groups(self) -> int:
        """Groups of every norm."""
        return NUM_GROUPS

    @property
    def family(self) -> str:
        """What it is, in words that go after "a"."""
        return "BiT ResNet"

    @property
    def root_width(self) -> int:
        """Channels of the root, and of the middle of the first stage's units."""
        return round(64 * self.width_factor)

    @property
    def num_layers(self) -> int:
        """Layers as the names count them: the root, three a unit, the head."""
        return 3 * sum(self.depths) + 2

    @property
    def num_features(self) -> int:
        """Width of the features that the head sees."""
        return EXPANSION * self.root_width * 2 ** (len(self.depths) - 1)

    @property
    def pooled_width(self) -> int:
        """Width of what `pool` gives."""
        return self.num_features

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map."""
        stride = 2 ** (len(self.depths) + 1)
        return -(-self.image_size[0] // stride), -(-self.image_size[1] // stride)


def _is_count(value: object, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
