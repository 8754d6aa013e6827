"""ViT, hybrid and BiT ResNet at equal training compute (Dosovitskiy et al. 2021, section 4.4, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vitrail.models.kinds import count_macs, require_vit
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import DEPTHS
from vitrail.models.timm_config import TimmConfig
from vitrail.training.config import TrainConfig

# Shares of the compute of the base, which is the largest run of the ViT. Each is a run with a whole schedule of its
# own, as in the paper (7 and 14 epochs), not a point on the way of a longer one.
BUDGETS = {"1/4 compute": 0.25, "1/2 compute": 0.5, "full compute": 1.0}
_SEPARATOR = ", "
_LARGEST = 64  # pixels of a side that the ResNet sees


def families(base: TrainConfig) -> dict[str, TrainConfig]:
    """The three families, each with what suits it, to be trained as long as `at_budgets` says.

    All with AdamW, which section 4.1 has for ResNets too (table 7). The hybrid has a root of 32 channels and one stage
    of two units before the same encoder, which sees as many tokens as the ViT does. The ResNet is BiT's with 26 layers
    and half the width; the stride of its root makes too little of small pictures, so it sees them enlarged to twice
    their size. BiT itself enlarges those of less than 96 x 96 pixels to 160 and cuts 128 (Kolesnikov et al. 2020,
    section 3.3), where a forward pass would cost four times as much.
    """
    vit = require_vit(base.model, "the study of compute")
    stages = 1 if vit.patch_size < 8 else 2  # a token of the hybrid has the ViT's stride
    hybrid = replace(vit, stem="resnet", stem_widths=(32,), stem_blocks=(2,) * stages)
    large = _enlarged(base)
    resnet = ResNetConfig(
        image_size=large.preprocessing.image_size,
        in_channels=vit.in_channels,
        num_classes=vit.num_classes,
        depths=DEPTHS[26],
        width_factor=0.5,
    )
    return {
        "ViT": base,
        "hybrid": replace(base, model=hybrid),
        "BiT-R26": replace(large, model=resnet),
    }


def baselines(base: TrainConfig, names: Sequence[str]) -> dict[str, TrainConfig]:
    """Models of timm by their names there, which see the pictures as the ResNet does."""
    large = _enlarged(base)
    size, channels = large.preprocessing.image_size, large.preprocessing.num_channels
    return {name: replace(large, model=TimmConfig(name, size, channels, base.model.num_classes)) for name in names}


def at_budgets(base: TrainConfig, configs: Mapping[str, TrainConfig]) -> dict[str, TrainConfig]:
    """Each of `configs` at each of `BUDGETS`: as many updates as cost what that share of the base's updates costs.

    Equal are multiply-adds times updates times pictures an update, up to the rounding to whole updates.
    """
    steps = base.schedule.steps or 0
    macs = {family: count_macs(config.model) for family, config in configs.items()}
    return {
        f"{family}{_SEPARATOR}{budget}": _trained_for(
            config, max(1, round(share * steps * count_macs(base.model) / macs[family]))
        )
        for budget, share in BUDGETS.items()
        for family, config in configs.items()
    }


def family_and_budget(cell: str) -> tuple[str, str]:
    """The two parts of a cell's name."""
    family, _, budget = cell.partition(_SEPARATOR)
    return family, budget


def _trained_for(config: TrainConfig, steps: int) -> TrainConfig:
    """The config with the same schedule over other updates; evaluated at their end alone, which is what is compared."""
    schedule = config.schedule
    ratio = steps / (schedule.steps or steps)
    epochs = schedule.epochs * ratio
    schedule = replace(schedule, steps=steps, epochs=epochs, warmup_epochs=schedule.warmup_epochs * ratio)
    return replace(config, schedule=schedule, evaluate_every_epochs=2 * epochs)


def _enlarged(config: TrainConfig) -> TrainConfig:
    """The config for pictures of twice the side, up to `_LARGEST`; shifts stay the same share of a side."""
    before = max(config.preprocessing.image_size)
    side = max(before, min(_LARGEST, 2 * before))
    size = (side, side)
    return replace(
        config,
        model=replace(config.model, image_size=size),
        preprocessing=replace(config.preprocessing, image_size=size),
        augmentation=replace(config.augmentation, max_shift=config.augmentation.max_shift * side // before),
    )
