"""How pictures are found, split, prepared and varied: frozen dataclasses, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitrail.errors import ConfigError

Interpolation = Literal["bilinear", "bicubic"]


def _check_rates(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} {value} is not between 0 and 1")


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and how they are divided.

    `source` is "digits", a folder (PHOTOS/<class>/... or PHOTOS/{train,val|valid|validation,test}/<class>/...),
    a .csv or .parquet with the columns path,label[,split], "hf:NAME_OR_PATH" (Hugging Face datasets), the name of a
    published data set, "cifar10" or "cifar10:FOLDER", or "vtab:NAME[:FOLDER]" for the part of it that VTAB-1k uses.
    """

    source: str
    # Of each class, where the source gives no validation split. 0: none is made, every picture that is not for testing
    # is learnt from, and the weights after the last update are kept.
    validation_share: float = 0.15
    test_share: float = 0.15  # of each class, where the source gives no test split
    seed: int = 0  # of the split alone, so that runs with other training seeds share their test pictures
    # Of the training pictures of each class; smaller shares lie inside larger ones. For studies of the amount of data.
    train_share: float = 1.0
    strict: bool = False  # refuse a data set with broken, contradictory or leaking pictures

    def __post_init__(self) -> None:
        _check_rates(self, "validation_share", "test_share", "train_share")
        if self.train_share == 0:
            raise ConfigError("train_share 0 leaves nothing to train on")
        if self.validation_share + self.test_share >= 1:
            raise ConfigError(
                f"validation_share {self.validation_share} and test_share {self.test_share} leave nothing to train on"
            )


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation and serving do to a picture: it decides the numbers, so it travels with the weights."""

    image_size: tuple[int, int] = (224, 224)  # (height, width), pixels
    # "squash": resize to image_size whatever the aspect. "crop": resize the short side to
    # floor(image_size / crop_fraction), then cut the centre.
    resize: Literal["squash", "crop"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (
        0.5,
        0.5,
        0.5,
    )  # per channel, of values in [0, 1]; one value means grey pictures
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if min(self.image_size) < 1:
            raise ConfigError(f"image_size {self.image_size} has a side below 1 pixel")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ConfigError(f"mean {self.mean} and std {self.std} must both have 1 value (grey) or 3 (RGB)")
        if min(self.std) <= 0:
            raise ConfigError(f"std {self.std} has a value that is not positive")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction {self.crop_fraction} is not in (0, 1]")

    @property
    def num_channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class RandAugment:
    """`kind` "vit": the 16 operations and levels of big_vision, used by AugReg (Steiner et al. 2021).
    "monotone": operations whose strength grows with the magnitude, as DeiT and timm use (rand-m9-mstd0.5-inc1)."""

    kind: Literal["vit", "monotone"] = "monotone"
    num_operations: int = 2
    magnitude: float = 9.0  # 0 to 10 ("monotone"), 0 to 20 ("vit")
    magnitude_std: float = 0.0  # "monotone" only


@dataclass(frozen=True)
class Augmentation:
    """What training does to one picture, in this order: crop, flip, RandAugment, colour, grey, blur, solarize."""

    # "inception": a random box of crop_area and crop_aspect, resized (Szegedy et al. 2015). "window": a random box of
    # window_share of both sides, resized (BiT, Kolesnikov et al. 2020). "shift": the evaluation picture moved by up to
    # max_shift pixels, the gap black. "evaluation": as in evaluation.
    crop: Literal["inception", "window", "shift", "evaluation"] = "inception"
    crop_area: tuple[float, float] = (0.05, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # width / height
    window_share: float = 6 / 7  # of both sides: BiT resizes to 448 pixels and cuts 384
    max_shift: int = 0  # pixels
    flip_rate: float = 0.5  # left-right
    randaugment: RandAugment | None = None
    color_jitter_rate: float = 0.0
    color_jitter: tuple[float, float, float, float] = (
        0.4,
        0.4,
        0.2,
        0.1,
    )  # brightness, contrast, saturation, hue
    grayscale_rate: float = 0.0
    blur_rate: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)  # standard deviation of the Gaussian, pixels
    solarize_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self, "flip_rate", "color_jitter_rate", "grayscale_rate", "blur_rate", "solarize_rate")
        if not 0 < self.window_share <= 1:
            raise ConfigError(f"window_share {self.window_share} is not in (0, 1]")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(f"crop_area {self.crop_area} is not an interval inside (0, 1]")


@dataclass(frozen=True)
class BatchAugmentation:
    """What training does to a whole batch on the device: MixUp, CutMix, random erasing."""

    mixup_alpha: float = 0.0  # 0: off. lambda ~ Beta(alpha, alpha), one a step (big_vision)
    cutmix_alpha: float = 0.0
    cutmix_switch_rate: float = 0.5  # share of steps with CutMix where both are on
    erasing_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self, "cutmix_switch_rate", "erasing_rate")
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise ConfigError(
                f"mixup_alpha {self.mixup_alpha} and cutmix_alpha {self.cutmix_alpha} must not be negative"
            )


@dataclass(frozen=True)
class LoaderConfig:
    """How pictures become batches; changes speed and memory, never the numbers."""

    num_workers: int | None = None  # None: chosen by the number of cores
    # "memory": keep decoded pictures in RAM. "disk": keep them in the folder that VITRAIL_CACHE names, for all workers
    # and later runs.
    cache: Literal["none", "memory", "disk"] = "none"
    cache_gigabytes: float = 50.0  # most that "disk" keeps, of all data sets together

    def __post_init__(self) -> None:
        if not self.cache_gigabytes > 0:
            raise ConfigError(f"cache_gigabytes {self.cache_gigabytes} is not positive")


@dataclass(frozen=True)
class ImageLimits:
    """What the reader refuses, checked from the header before any pixel is decoded."""

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = field(default=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"))
