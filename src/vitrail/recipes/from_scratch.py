"""Training from random weights, by the size of the pictures and of the data set."""

from __future__ import annotations

from vitrail.data.config import Augmentation, BatchAugmentation, Preprocessing, RandAugment
from vitrail.models.config import ViTConfig
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.situation import Situation
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def _preprocessing(situation: Situation, side: int, crop_fraction: float = 1.0) -> Preprocessing:
    half = (0.5,) * situation.facts.num_channels
    return Preprocessing(image_size=(side, side), crop_fraction=crop_fraction, mean=half, std=half)


# On 1,284 photographs this reached in 40 epochs 0.59 where AdamW reached 0.44.
MUON = OptimizerConfig(name="muon", learning_rate=1e-3, kernel_rate=2.0, weight_decay=0.5, momentum=0.95)


def _epochs(situation: Situation, pictures: int, most: float) -> float:
    """So many epochs that about `pictures` pictures are seen, at least 1 and at most `most`."""
    return max(1.0, min(most, round(pictures / max(1, situation.facts.num_train), 1)))


def digits_vit(situation: Situation) -> TrainConfig:
    """A small ViT for tiny pictures, such as the 8x8 digits of scikit-learn: one convolution before the encoder.

    Command: `vitrail train digits_vit --data digits`. Measured on 2 cores (Xeon with AMX): 98.9 % and 99.3 % of 269
    test pictures (seeds 0 and 1; ridge on pixels 92.6 %), 35 to 45 s for the whole command.
    """
    side = max(situation.facts.picture_size)
    side = side + side % 2 if side <= 16 else 8
    return TrainConfig(
        recipe="digits_vit",
        data=situation.data,
        model=ViTConfig(
            image_size=(side, side),
            patch_size=2,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=64,
            depth=4,
            num_heads=4,
            mlp_size=128,
            pooling="gap",
            class_token=False,
            stem="conv",
            stem_widths=(64,),
            stem_blocks=(1,),
        ),
        preprocessing=_preprocessing(situation, side),
        # Shifts only: a mirrored or strongly cropped digit is another digit.
        augmentation=Augmentation(crop="shift", max_shift=1, flip_rate=0.0),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.2),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.05),
        schedule=ScheduleConfig(epochs=60, warmup_epochs=5),
        averaging=AveragingConfig(rate=0.99),
        batch_size=64,
        seed=situation.seed,
        evaluate_every_epochs=10,  # rarely: the best of many looks at 269 pictures is the luckiest one
    )


def small_pictures(situation: Situation) -> TrainConfig:
    """A ViT with a deep convolutional stem for pictures of 17 to 48 pixels (CIFAR, MNIST).

    Command: `vitrail fit PHOTOS`. Pictures are not mirrored: at this size they are often digits or letters
    (`--augmentation.flip-rate 0.5` of `vitrail train` mirrors them). Measured outside this recipe, mirrored, on 10,000
    pictures of CIFAR-10 (recompressed) for 12 epochs: 73 % in about 390 s of one core.
    """
    return TrainConfig(
        recipe="small_pictures",
        data=situation.data,
        model=ViTConfig(
            image_size=(32, 32),
            patch_size=8,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=192,
            depth=4,
            num_heads=3,
            mlp_size=768,
            pooling="gap",
            class_token=False,
            layer_scale_init=0.1,
            stem="conv",
            stem_widths=(64, 128, 192),
            stem_blocks=(1, 1, 1),
        ),
        preprocessing=_preprocessing(situation, 32, crop_fraction=0.875),
        augmentation=Augmentation(crop="inception", crop_area=(0.5, 1.0), flip_rate=0.0),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.2),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=MUON,
        # 12 epochs of a data set of CIFAR's size; fewer pictures are seen more often.
        schedule=ScheduleConfig(epochs=_epochs(situation, pictures=600_000, most=60), warmup_epochs=1),
        averaging=AveragingConfig(rate=0.99),
        batch_size=64,
        seed=situation.seed,
    )


def small_photos(situation: Situation) -> TrainConfig:
    """A ViT with a deep convolutional stem for photographs when there are too few for a plain ViT.

    Command: `vitrail fit PHOTOS --weights none`. Measured on 1,284 photographs of clothes in 10 classes, 110 epochs: of
    245 test pictures 77.1 % are named right (71 to 82), after 14 minutes of one core of a busy machine; without
    RandAugment, which 146 validation pictures decided for (79 against 73 %), 70.6 %. In short trials on 1,144 of the
    photographs, on 286 others, by processor seconds of one thread: 65.0 % after 165 s (24 epochs), 70.3 % after 278 s
    (40 epochs), 68.2 % with RandAugment, which pays in long runs alone; with the same optimizer and at 80 pixels a BiT
    ResNet of three stages 39.5 % after 145 s, a ResNet hybrid 43.7 % after 139 s.
    """
    return TrainConfig(
        recipe="small_photos",
        data=situation.data,
        model=ViTConfig(
            image_size=(64, 64),
            patch_size=16,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=192,
            depth=4,
            num_heads=3,
            mlp_size=768,
            pooling="gap",
            class_token=False,
            layer_scale_init=0.1,
            stochastic_depth_rate=0.1,
            stem="conv",
            stem_widths=(48, 96, 192, 192),
            stem_blocks=(0, 1, 1, 1),
        ),
        preprocessing=_preprocessing(situation, 64, crop_fraction=0.875),
        augmentation=Augmentation(
            crop="inception", crop_area=(0.35, 1.0), randaugment=RandAugment("monotone", num_operations=2, magnitude=7)
        ),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.2, cutmix_alpha=1.0),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=MUON,
        schedule=ScheduleConfig(epochs=_epochs(situation, pictures=400_000, most=110), warmup_epochs=3),
        averaging=AveragingConfig(rate=0.99),
        batch_size=64,
        seed=situation.seed,
        evaluate_every_epochs=10,  # rarely: the best of many looks at few pictures is the luckiest one
    )


def photos(situation: Situation) -> TrainConfig:
    """A ViT-S with a convolutional stem for tens of thousands of photographs and more.

    Command: `vitrail fit PHOTOS`. Nobody has measured it yet: the settings are those of the literature.
    """
    return TrainConfig(
        recipe="photos",
        data=situation.data,
        model=ViTConfig(
            image_size=(160, 160),
            patch_size=16,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=384,
            depth=11,
            num_heads=6,
            mlp_size=1536,
            pooling="gap",
            class_token=False,
            stem="conv",
            stem_widths=(48, 96, 192, 384),
            stochastic_depth_rate=0.1,
        ),
        preprocessing=_preprocessing(situation, 160, crop_fraction=0.875),
        augmentation=Augmentation(crop="inception", crop_area=(0.2, 1.0)),
        batch_augmentation=BatchAugmentation(mixup_alpha=0.2),
        objective=SupervisedConfig(label_smoothing=0.1, balance=situation.balance),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(epochs=30, warmup_epochs=3),
        averaging=AveragingConfig(rate=0.9998),
        batch_size=128,
        seed=situation.seed,
    )
