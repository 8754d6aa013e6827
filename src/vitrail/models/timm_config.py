"""A model that timm builds, as a baseline beside ours; free of torch and of timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class TimmConfig:
    """Which model of timm (github.com/huggingface/pytorch-image-models), and what it sees and answers.

    The architecture is timm's, under its name: the same name may mean another model in another version of timm.

    Raises:
        ConfigError: a field out of range; the message names field and value. That timm is installed and has such a
            model shows when it is built.
    """

    name: str  # one of timm.list_models(), as "ghostnet_100"; its weights are never loaded
    image_size: tuple[int, int] = (224, 224)  # (height, width) in pixels
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the model answers with features
    kind: Literal["timm"] = "timm"

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("name is empty: give a model of timm, as ghostnet_100")
        for name, smallest in (("in_channels", 1), ("num_classes", 0)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not a whole number of at least {smallest}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ConfigError(f"image_size {self.image_size!r} is not (height, width) in whole pixels")

    @property
    def family(self) -> str:
        """What it is, in words that go after "a"."""
        return f"model of timm, {self.name}"

    @property
    def side_multiple(self) -> int:
        """What must divide the sides of a picture; where timm wants more, it says so when the model is built."""
        return 1
