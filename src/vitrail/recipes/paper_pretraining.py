"""Pre-training as the papers did it: Dosovitskiy et al. 2021 (table 3), Steiner et al. 2021, Beyer et al. 2022, Touvron
et al. 2021. None was run whole here; `--scale` shrinks any of them to a machine at hand. ResNets and hybrids are in
`paper_resnets`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from vitrail.data.config import Augmentation, BatchAugmentation, Preprocessing, RandAugment
from vitrail.models.config import ViTConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import get_resnet_config, is_resnet
from vitrail.models.variants import get_config
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.situation import Situation
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig

_WARMUP_STEPS = 10_000
MICRO_BATCH = 256  # pictures at once; the rest of a batch is accumulated
# Evaluation of big_vision: the short side to 256 pixels, the centre of 224.
HALF = Preprocessing(image_size=(224, 224), crop_fraction=0.875)
_IMAGENET_STATISTICS = Preprocessing(
    image_size=(224, 224),
    crop_fraction=0.875,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def warmup_epochs(situation: Situation, batch_size: int, steps: int = _WARMUP_STEPS) -> float:
    return steps * batch_size / max(1, situation.facts.num_train)


def with_sigmoid_head(model: ViTConfig | ResNetConfig, num_classes: int) -> ViTConfig | ResNetConfig:
    """A head for one yes or no a class, whose bias begins near the logarithm of a class's share: -10.0 for the 21,843
    classes of ImageNet-21k and -6.9 for 1,000, as big_vision has them."""
    return replace(model, num_classes=num_classes, head_bias_init=-round(math.log(max(1, num_classes)), 1))


@dataclass(frozen=True)
class Row:
    """A row of table 3 of Dosovitskiy et al. 2021: batch 4096, 10,000 steps of warm-up, 224 pixels, Adam.

    The paper does not state the loss. Where `clip_norm` is set it is ImageNet, and the loss softmax; the large sets
    have the sigmoid loss that big_vision trains ImageNet-21k with, whose pictures may show several classes.
    """

    variant: str
    epochs: float
    learning_rate: float
    decay: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.1
    dropout_rate: float = 0.0
    clip_norm: float | None = None  # "useful on ImageNet only"


_IMAGENET = Row("ViT-B/16", 300, 3e-3, "cosine", 0.3, 0.1, 1.0)
_BASE_21K = Row("ViT-B/16", 90, 1e-3, "linear", 0.03, 0.1)
_LARGE_21K = Row("ViT-L/16", 90, 1e-3, "linear", 0.03, 0.1)
_BASE_JFT = Row("ViT-B/16", 7, 8e-4)
_LARGE_JFT = Row("ViT-L/16", 14, 4e-4)
_HUGE_JFT = Row("ViT-H/14", 14, 3e-4)


def table_3(situation: Situation, name: str, row: Row) -> TrainConfig:
    is_imagenet, num_classes = row.clip_norm is not None, situation.facts.num_classes
    model = get_resnet_config(row.variant) if is_resnet(row.variant) else get_config(row.variant)
    if isinstance(model, ViTConfig):
        # The head of pre-training has one hidden layer with tanh (section 3.1).
        model = replace(model, dropout_rate=row.dropout_rate, pre_logits_size=model.width, activation="gelu_tanh")
    return TrainConfig(
        recipe=name,
        data=situation.data,
        model=replace(model, num_classes=num_classes) if is_imagenet else with_sigmoid_head(model, num_classes),
        preprocessing=HALF,
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0)),
        objective=SupervisedConfig(loss="softmax" if is_imagenet else "sigmoid", balance=situation.balance),
        optimizer=OptimizerConfig(
            learning_rate=row.learning_rate, weight_decay=row.weight_decay, clip_norm=row.clip_norm
        ),
        schedule=ScheduleConfig(
            epochs=row.epochs,
            warmup_epochs=warmup_epochs(situation, 4096),
            decay=row.decay,
            end_learning_rate=1e-5 if row.decay == "linear" else 0.0,
        ),
        batch_size=4096,
        accumulation_steps=4096 // MICRO_BATCH,
        seed=situation.seed,
    )


def vit_imagenet(situation: Situation) -> TrainConfig:
    """ViT-B/16 on ImageNet as in table 3 of the paper: 300 epochs, cosine, weight decay 0.3, dropout 0.1.

    Command: `vitrail train vit_imagenet --data imagenet:FOLDER`. Published: 77.91 % at 384 pixels after fine-tuning
    (table 5). Not run whole here.
    """
    return table_3(situation, "vit_imagenet", _IMAGENET)


def vit_imagenet21k(situation: Situation) -> TrainConfig:
    """ViT-B/16 on ImageNet-21k as in table 3: 90 epochs, linear decay, weight decay 0.03, dropout 0.1.

    Command: `vitrail train vit_imagenet21k --data imagenet21k:FOLDER`. Published, fine-tuned at 384 pixels: 83.97 % on
    ImageNet, 98.95 % on CIFAR-10 (table 5). Not run whole here.
    """
    return table_3(situation, "vit_imagenet21k", _BASE_21K)


def vit_large_imagenet21k(situation: Situation) -> TrainConfig:
    """ViT-L/16 on ImageNet-21k as in table 3, with the longer of its two schedules: 90 epochs.

    Command: `vitrail train vit_large_imagenet21k --data imagenet21k:FOLDER`. Published, fine-tuned at 384 pixels:
    85.15 % on ImageNet, 99.16 % on CIFAR-10 (table 5). Not run whole here.
    """
    return table_3(situation, "vit_large_imagenet21k", _LARGE_21K)


def vit_large_data(situation: Situation) -> TrainConfig:
    """ViT-B/16 on hundreds of millions of pictures, as table 3 has it for JFT-300M: 7 epochs, no dropout.

    Command: `vitrail train vit_large_data --data PHOTOS`. Published for JFT, which is not public: 84.15 % on ImageNet
    after fine-tuning, for 224 exaFLOPs (table 6). Not run here. With `--model.patch-size 32`: 80.73 %, 55 exaFLOPs.
    """
    return table_3(situation, "vit_large_data", _BASE_JFT)


def vit_large_large_data(situation: Situation) -> TrainConfig:
    """ViT-L/16 as table 3 has it for JFT-300M: 14 epochs, learning rate 4e-4.

    Command: `vitrail train vit_large_large_data --data PHOTOS`. Published for JFT: 87.12 % on ImageNet after
    fine-tuning, for 1,567 exaFLOPs; 86.30 % after 7 epochs (table 6). Not run here.
    """
    return table_3(situation, "vit_large_large_data", _LARGE_JFT)


def vit_huge_large_data(situation: Situation) -> TrainConfig:
    """ViT-H/14 as table 3 has it for JFT-300M: 14 epochs, learning rate 3e-4.

    Command: `vitrail train vit_huge_large_data --data PHOTOS`. Published for JFT: 88.08 % on ImageNet after
    fine-tuning, for 4,262 exaFLOPs (table 6). Not run here.
    """
    return table_3(situation, "vit_huge_large_data", _HUGE_JFT)


# Steiner et al. 2021, the seven levels: RandAugment operations and magnitude, MixUp alpha.
AUGREG_LEVELS: dict[str, tuple[int, float, float]] = {
    "none": (0, 0.0, 0.0),
    "light1": (2, 0.0, 0.0),
    "light2": (2, 10.0, 0.2),
    "medium1": (2, 15.0, 0.2),
    "medium2": (2, 15.0, 0.5),
    "strong1": (2, 20.0, 0.5),
    "strong2": (2, 20.0, 0.8),
}


def augreg(
    situation: Situation, level: str, name: str = "", variant: str = "ViT-S/16", dropout_rate: float = 0.0
) -> TrainConfig:
    """A level of augmentation, with the dropout and the stochastic depth that come together there (their grid has 0.0
    and 0.1 of both)."""
    num_operations, magnitude, mixup = AUGREG_LEVELS[level]
    randaugment = RandAugment("vit", num_operations, magnitude) if num_operations else None
    model = replace(
        get_config(variant),
        activation="gelu_tanh",
        dropout_rate=dropout_rate,
        stochastic_depth_rate=dropout_rate,
    )
    return TrainConfig(
        recipe=name or f"augreg_{level}",
        data=situation.data,
        model=with_sigmoid_head(model, situation.facts.num_classes),
        preprocessing=HALF,
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0), randaugment=randaugment),
        batch_augmentation=BatchAugmentation(mixup_alpha=mixup),
        objective=SupervisedConfig(loss="sigmoid", balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(epochs=300, warmup_epochs=warmup_epochs(situation, 4096)),
        batch_size=4096,
        accumulation_steps=4096 // MICRO_BATCH,
        seed=situation.seed,
    )


def augreg_none(situation: Situation) -> TrainConfig:
    """ViT-S/16 for 300 epochs with crops and mirroring alone (Steiner et al. 2021, level "none"). Not run here."""
    return augreg(situation, "none")


def augreg_light1(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 0): not a no-op, posterize keeps no bit at magnitude 0. Not run here."""
    return augreg(situation, "light1")


def augreg_light2(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 10) and MixUp 0.2. Not run here."""
    return augreg(situation, "light2")


def augreg_medium1(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 15) and MixUp 0.2. Not run here."""
    return augreg(situation, "medium1")


def augreg_medium2(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 15) and MixUp 0.5: big_vision's choice for S/16 and larger. Not run here."""
    return augreg(situation, "medium2")


def augreg_strong1(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 20) and MixUp 0.5. Not run here."""
    return augreg(situation, "strong1")


def augreg_strong2(situation: Situation) -> TrainConfig:
    """As augreg_none, with RandAugment (2, 20) and MixUp 0.8. Not run here."""
    return augreg(situation, "strong2")


def augreg_imagenet21k(situation: Situation) -> TrainConfig:
    """ViT-B/16 on ImageNet-21k for 300 epochs (Steiner et al. 2021): level medium1, sigmoid loss, weight decay 0.1.

    Command: `vitrail train augreg_imagenet21k --data imagenet21k:FOLDER`. Published: 85.49 % on ImageNet after
    fine-tuning at 384 pixels. Not run here.
    """
    return augreg(situation, "medium1", "augreg_imagenet21k", "ViT-B/16")


def plain_vit_s16(situation: Situation) -> TrainConfig:
    """The better plain ViT-S/16 (Beyer et al. 2022): sine-cosine positions, mean pooling, RandAugment, MixUp.

    Command: `vitrail train plain_vit_s16 --data imagenet:FOLDER`. Published: 76.5 % on ImageNet after 90 epochs, about
    six and a half hours on eight TPUv3 chips. Not run whole here.
    """
    return TrainConfig(
        recipe="plain_vit_s16",
        data=situation.data,
        model=replace(
            get_config("ViT-S/16"),
            num_classes=situation.facts.num_classes,
            activation="gelu_tanh",
            pooling="gap",
            class_token=False,
            position_embedding="sincos_2d_big_vision",
            pre_logits_size=384,
        ),
        preprocessing=HALF,
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0), randaugment=RandAugment("vit", 2, 10.0)),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.2),
        objective=SupervisedConfig(balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(epochs=90, warmup_epochs=warmup_epochs(situation, 1024)),
        batch_size=1024,
        accumulation_steps=1024 // MICRO_BATCH,
        seed=situation.seed,
    )


def deit_s16(situation: Situation) -> TrainConfig:
    """DeiT-S/16 without distillation (Touvron et al. 2021): 300 epochs, MixUp and CutMix, erasing, averaging.

    Command: `vitrail train deit_s16 --data imagenet:FOLDER`. Published: 79.8 % on ImageNet. Without its repeated
    augmentation, which is not built; not run here.
    """
    return TrainConfig(
        recipe="deit_s16",
        data=situation.data,
        model=replace(get_config("ViT-S/16"), num_classes=situation.facts.num_classes, stochastic_depth_rate=0.1),
        preprocessing=_IMAGENET_STATISTICS,
        augmentation=Augmentation(
            crop="inception",
            crop_area=(0.08, 1.0),
            randaugment=RandAugment("monotone", 2, 9.0, 0.5),
        ),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, erasing_rate=0.25),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05, clip_norm=None),
        schedule=ScheduleConfig(epochs=300, warmup_epochs=5),
        averaging=AveragingConfig(rate=0.99996),
        batch_size=1024,
        accumulation_steps=1024 // MICRO_BATCH,
        seed=situation.seed,
    )
