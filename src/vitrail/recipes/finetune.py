"""Fine-tuning a trained bundle on other pictures."""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation
from vitrail.errors import ConfigError
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.situation import Situation
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig


def finetune(situation: Situation) -> TrainConfig:
    """The architecture and preprocessing of the weights, a fresh zero head, layer-wise learning-rate decay.

    Command: `vitrail fit PHOTOS`, or with `--weights` of your own. The settings are those of the literature: nobody has
    tuned them on public weights yet.
    """
    start = situation.start
    if start is None:
        raise ConfigError("the recipe 'finetune' needs weights to start from: add --weights BUNDLE")
    side = max(start.preprocessing.image_size)
    # About 200 updates of 64 pictures; few pictures are seen up to 40 times, many at least 4 times.
    epochs = max(4.0, min(40.0, round(12_800 / max(1, situation.facts.num_train), 1)))
    # Pictures this small are often digits or letters, which mirroring and cutting turn into others.
    shift = Augmentation(crop="shift", max_shift=max(1, side // 8), flip_rate=0.0)
    return TrainConfig(
        recipe="finetune",
        data=situation.data,
        model=replace(start.model, num_classes=situation.facts.num_classes),
        preprocessing=start.preprocessing,
        augmentation=shift if side <= 48 else Augmentation(crop="inception", crop_area=(0.35, 1.0)),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.05, layer_decay=0.75),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=epochs / 10),
        batch_size=64,
        seed=situation.seed,
        weights=start.path,
    )
