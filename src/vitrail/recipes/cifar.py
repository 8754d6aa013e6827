"""As far as twenty minutes of two cores go on CIFAR-10."""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation, LoaderConfig, Preprocessing
from vitrail.models.config import ViTConfig
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.from_scratch import MUON
from vitrail.recipes.situation import Situation
from vitrail.training.config import AveragingConfig, ScheduleConfig, TrainConfig


def cifar10_20min(situation: Situation) -> TrainConfig:
    """CIFAR-10 from random weights in 20 minutes of two cores: convolutions to 4x4 tokens, then two encoder blocks.

    Command: `vitrail train cifar10_20min --data cifar10`.
    """
    half = (0.5,) * situation.facts.num_channels
    return TrainConfig(
        recipe="cifar10_20min",
        # A fiftieth is enough for the curve; the rest is learnt from.
        data=replace(situation.data, validation_share=0.02),
        model=ViTConfig(
            image_size=(32, 32),
            patch_size=8,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=192,
            depth=2,
            num_heads=3,
            mlp_size=768,
            pooling="gap",
            class_token=False,
            layer_scale_init=0.1,
            stem="conv",
            stem_widths=(64, 128, 192),
            stem_blocks=(1, 1, 1),
        ),
        preprocessing=Preprocessing((32, 32), mean=half, std=half),
        augmentation=Augmentation(crop="shift", max_shift=4, flip_rate=0.5),
        loader=LoaderConfig(cache="memory"),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=replace(MUON, learning_rate=3e-3),
        schedule=ScheduleConfig(epochs=22, warmup_epochs=1, decay="linear"),
        averaging=AveragingConfig(rate=0.99),
        batch_size=128,
        seed=situation.seed,
        evaluate_every_epochs=2,
    )
