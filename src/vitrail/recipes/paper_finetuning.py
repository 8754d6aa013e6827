"""Fine-tuning as the papers did it: Dosovitskiy et al. 2021 (table 4 and section 4.1), Kolesnikov et al. 2020 (BiT).

Each names one learning rate; with `--sweep` those of `sweeps.SWEEPS` are tried first.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation, BatchAugmentation, Preprocessing
from vitrail.data.vtab import VTAB
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.situation import Situation, StartingWeights
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig

_BATCH, _MICRO_BATCH = 512, 64


def _start(situation: Situation, recipe: str) -> StartingWeights:
    if situation.start is None:
        raise ConfigError(f"the recipe '{recipe}' needs weights to start from: add --weights WEIGHTS")
    return situation.start


def _side(start: StartingWeights, wanted: int) -> int:
    """The side that the model can have nearest to `wanted` from below: 518 for patches of 14 and 520 wanted."""
    unit = start.model.side_multiple
    return max(unit, wanted // unit * unit)


def _headless(model: ModelConfig) -> ModelConfig:
    """Without a hidden layer before the head, without dropout, and with a head that starts at zero."""
    if isinstance(model, ViTConfig):
        return replace(model, pre_logits_size=None, dropout_rate=0.0, head_bias_init=0.0)
    return replace(model, head_bias_init=0.0) if isinstance(model, ResNetConfig) else model


def _momentum_sgd(
    situation: Situation,
    name: str,
    *,
    steps: int,
    learning_rate: float,
    side: int = 384,
    averaging: float | None = None,
) -> TrainConfig:
    """Table 4: momentum 0.9, cosine, batch 512, no weight decay, clip 1, pictures squashed for the test."""
    start = _start(situation, name)
    size = (_side(start, side),) * 2
    preprocessing = replace(start.preprocessing, image_size=size, resize="squash", interpolation="bilinear")
    steps_per_epoch = max(1.0, situation.facts.num_train / _BATCH)
    warmup_steps = 100 if steps <= 500 else 500
    return TrainConfig(
        recipe=name,
        data=situation.data,
        # The whole head of pre-training goes, its hidden layer too; one linear layer at zero takes its place.
        model=_headless(replace(start.model, image_size=size, num_classes=situation.facts.num_classes)),
        preprocessing=preprocessing,
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0)),
        objective=SupervisedConfig(balance=situation.balance),
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=learning_rate, momentum=0.9, weight_decay=0.0, clip_norm=1.0
        ),
        schedule=ScheduleConfig(
            epochs=steps / steps_per_epoch, steps=steps, warmup_epochs=warmup_steps / steps_per_epoch
        ),
        averaging=AveragingConfig(rate=averaging),
        batch_size=_BATCH,
        accumulation_steps=_BATCH // _MICRO_BATCH,
        seed=situation.seed,
        weights=start.path,
        fresh_head=True,
        evaluate_every_epochs=max(1.0, steps / steps_per_epoch / 10),
    )


def finetune_imagenet(situation: Situation) -> TrainConfig:
    """20,000 updates at 384 pixels, learning rate 0.03 of the 0.003 to 0.06 that table 4 tries.

    Command: `vitrail train finetune_imagenet --data imagenet:FOLDER --weights WEIGHTS --sweep`. Published for ViT-B/16
    from ImageNet-21k: 83.97 %, 88.35 % on ReaL. Not run here.
    """
    return _momentum_sgd(situation, "finetune_imagenet", steps=20_000, learning_rate=0.03)


def finetune_imagenet_large(situation: Situation) -> TrainConfig:
    """As finetune_imagenet at 512 pixels (518 for patches of 14), with Polyak averaging of 0.9999, as table 2 has it.

    Command: `vitrail train finetune_imagenet_large --data imagenet:FOLDER --weights WEIGHTS --sweep`. Published for
    ViT-H/14 from JFT: 88.55 %. Where averaging starts is not published; here with the first update, warmed up. Not run
    here.
    """
    start = _start(situation, "finetune_imagenet_large")
    side = 518 if isinstance(start.model, ViTConfig) and start.model.patch_size == 14 else 512
    return _momentum_sgd(
        situation, "finetune_imagenet_large", steps=20_000, learning_rate=0.03, side=side, averaging=0.9999
    )


def finetune_cifar(situation: Situation) -> TrainConfig:
    """10,000 updates at 384 pixels, learning rate 0.01 of the 0.001 to 0.03 tried: CIFAR-10 and CIFAR-100.

    Command: `vitrail train finetune_cifar --data cifar10 --weights WEIGHTS --sweep`. Published for ViT-B/16 from
    ImageNet-21k: 98.95 % and 91.67 %. Not run here.
    """
    return _momentum_sgd(situation, "finetune_cifar", steps=10_000, learning_rate=0.01)


def finetune_small(situation: Situation) -> TrainConfig:
    """500 updates at 384 pixels, learning rate 0.003 of the 0.001 to 0.03 tried: Oxford Pets and Flowers.

    Command: `vitrail train finetune_small --data pets --weights WEIGHTS --sweep`. Published for ViT-B/16 from
    ImageNet-21k: 94.43 % and 99.38 %. Not run here.
    """
    return _momentum_sgd(situation, "finetune_small", steps=500, learning_rate=0.003)


def finetune_vtab(situation: Situation) -> TrainConfig:
    """2,500 updates at 384 pixels, learning rate 0.01: one setting for the 19 tasks of VTAB-1k.

    Command: `vitrail suite vtab1k WEIGHTS --data FOLDER`, or of one task `vitrail train finetune_vtab --data
    vtab:TASK:FOLDER --weights WEIGHTS`. Published for ViT-H/14 from JFT: 77.63 % on average. Pictures are varied as by
    BiT (windows of 6/7 of both sides, mirrored), but where that would change a task's label: no windows for Clevr,
    DMLab, KITTI and dSprites' places, no mirroring for dSprites and smallNORB's azimuth. Not run here.
    """
    config = _momentum_sgd(situation, "finetune_vtab", steps=2_500, learning_rate=0.01)
    task = VTAB.get(situation.data.source.removeprefix("vtab:").partition(":")[0])
    may_flip, may_crop = (True, True) if task is None else (task.may_flip, task.may_crop)
    augmentation = Augmentation(crop="window" if may_crop else "evaluation", flip_rate=0.5 if may_flip else 0.0)
    return replace(config, augmentation=augmentation)


def bit_hyperrule(situation: Situation) -> TrainConfig:
    """BiT-HyperRule (Kolesnikov et al. 2020, section 3.3): length, picture size and MixUp by the data alone.

    Command: `vitrail train bit_hyperrule --data PHOTOS --weights WEIGHTS`. Below 20,000 pictures 500 updates, below
    500,000 10,000 with MixUp 0.1, else 20,000; pictures under 96 x 96 pixels are seen at 128, others at 384; the rate
    falls tenfold at 30, 60 and 90 %. Not run here.
    """
    start = _start(situation, "bit_hyperrule")
    count, (height, width) = situation.facts.num_train, situation.facts.picture_size
    steps = 500 if count < 20_000 else 10_000 if count < 500_000 else 20_000
    is_small = height * width < 96 * 96
    config = _momentum_sgd(situation, "bit_hyperrule", steps=steps, learning_rate=0.003, side=128 if is_small else 384)
    side = config.preprocessing.image_size[0]
    share = min(1.0, side / (160 if is_small else 448))
    preprocessing = Preprocessing(
        image_size=(side, side),
        resize="crop",
        crop_fraction=share,
        mean=start.preprocessing.mean,
        std=start.preprocessing.std,
    )
    return replace(
        config,
        preprocessing=preprocessing,
        schedule=replace(config.schedule, decay="stair"),
        augmentation=Augmentation(crop="window", window_share=share),
        optimizer=replace(config.optimizer, clip_norm=None),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.0 if count < 20_000 else 0.1),
    )
