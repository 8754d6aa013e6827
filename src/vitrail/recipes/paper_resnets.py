"""Pre-training of ResNets and hybrids as the papers did it: Dosovitskiy et al. 2021 (table 3), Steiner et al. 2021,
Kolesnikov et al. 2020 (BiT). None was run whole here; `--scale` shrinks any of them to a machine at hand.

The figures are of ImageNet after fine-tuning at 384 pixels, with the compute of pre-training on JFT-300M (table 6 of
Dosovitskiy et al. 2021). JFT is not public: on other pictures expect other figures.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation
from vitrail.models.resnet_variants import get_resnet_config
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.paper_pretraining import (
    HALF,
    MICRO_BATCH,
    Row,
    augreg,
    table_3,
    warmup_epochs,
    with_sigmoid_head,
)
from vitrail.recipes.situation import Situation
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig


def resnet50_large_data(situation: Situation) -> TrainConfig:
    """BiT-R50x1 on hundreds of millions of pictures, with Adam, as table 3 has it for JFT-300M: 7 epochs, rate 1e-3.

    Command: `vitrail train resnet50_large_data --data PHOTOS`. Published: 77.54 % for 50 exaFLOPs; with SGD 78.24 %
    (table 7). Not run here.
    """
    return table_3(situation, "resnet50_large_data", Row("BiT-R50x1", 7, 1e-3))


def resnet50x2_large_data(situation: Situation) -> TrainConfig:
    """As resnet50_large_data, twice as wide.

    Command: `vitrail train resnet50x2_large_data --data PHOTOS`. Published: 82.12 % for 199 exaFLOPs. Not run here.
    """
    return table_3(situation, "resnet50x2_large_data", Row("BiT-R50x2", 7, 1e-3))


def resnet101_large_data(situation: Situation) -> TrainConfig:
    """BiT-R101x1 as table 3 has it for JFT-300M: 7 epochs, learning rate 8e-4.

    Command: `vitrail train resnet101_large_data --data PHOTOS`. Published: 80.67 % for 96 exaFLOPs. Not run here.
    """
    return table_3(situation, "resnet101_large_data", Row("BiT-R101x1", 7, 8e-4))


def resnet152_large_data(situation: Situation) -> TrainConfig:
    """BiT-R152x1 as table 3 has it for JFT-300M: 7 epochs, learning rate 6e-4.

    Command: `vitrail train resnet152_large_data --data PHOTOS`. Published: 81.88 % for 141 exaFLOPs. Not run here.
    """
    return table_3(situation, "resnet152_large_data", Row("BiT-R152x1", 7, 6e-4))


def resnet152x2_large_data(situation: Situation) -> TrainConfig:
    """As resnet152_large_data, twice as wide.

    Command: `vitrail train resnet152x2_large_data --data PHOTOS`. Published: 84.97 % for 563 exaFLOPs; 85.56 % after 14
    epochs; with SGD 84.37 % after 7 (table 7). Not run here.
    """
    return table_3(situation, "resnet152x2_large_data", Row("BiT-R152x2", 7, 6e-4))


def hybrid_base32_large_data(situation: Situation) -> TrainConfig:
    """R50+ViT-B/32 as table 3 has it for JFT-300M: 7 epochs, learning rate 8e-4.

    Command: `vitrail train hybrid_base32_large_data --data PHOTOS`. Published: 84.90 % for 106 exaFLOPs. Not run here.
    """
    return table_3(situation, "hybrid_base32_large_data", Row("R50+ViT-B/32", 7, 8e-4))


def hybrid_base_large_data(situation: Situation) -> TrainConfig:
    """R50+ViT-B/16 as table 3 has it for JFT-300M: 7 epochs, learning rate 8e-4.

    Command: `vitrail train hybrid_base_large_data --data PHOTOS`. Published: 85.58 % for 274 exaFLOPs, where ViT-B/16
    has 84.15 % for 224. Not run here.
    """
    return table_3(situation, "hybrid_base_large_data", Row("R50+ViT-B/16", 7, 8e-4))


def hybrid_large32_large_data(situation: Situation) -> TrainConfig:
    """R50+ViT-L/32 as table 3 has it for JFT-300M: 7 epochs, learning rate 2e-4.

    Command: `vitrail train hybrid_large32_large_data --data PHOTOS`. Published: 85.68 % for 246 exaFLOPs. Not run here.
    """
    return table_3(situation, "hybrid_large32_large_data", Row("R50+ViT-L/32", 7, 2e-4))


def hybrid_large_large_data(situation: Situation) -> TrainConfig:
    """R50+ViT-L/16 as table 3 has it for JFT-300M, with the longer of its two schedules: 14 epochs, rate 4e-4.

    Command: `vitrail train hybrid_large_large_data --data PHOTOS`. Published: 87.12 % for 1,668 exaFLOPs; 86.60 % after
    7 epochs. Not run here.
    """
    return table_3(situation, "hybrid_large_large_data", Row("R50+ViT-L/16", 14, 4e-4))


def hybrid_imagenet21k(situation: Situation) -> TrainConfig:
    """R50+ViT-B/16 on ImageNet-21k with the settings that table 3 has for ViT-B/16 there: 90 epochs, dropout 0.1.

    Command: `vitrail train hybrid_imagenet21k --data imagenet21k:FOLDER`. The table has no row for hybrids on
    ImageNet-21k. Published by the authors' vision_transformer code, for weights of this name: 85.08 % on ImageNet,
    98.94 % on CIFAR-10. Not run here.
    """
    return table_3(situation, "hybrid_imagenet21k", Row("R50+ViT-B/16", 90, 1e-3, "linear", 0.03, 0.1))


def hybrid_augreg_imagenet21k(situation: Situation) -> TrainConfig:
    """R50+ViT-L/32 on ImageNet-21k for 300 epochs (Steiner et al. 2021): level medium1, dropout and depth drop 0.1.

    Command: `vitrail train hybrid_augreg_imagenet21k --data imagenet21k:FOLDER`. Published: 85.99 % on ImageNet after
    fine-tuning at 384 pixels. Not run here.
    """
    return augreg(situation, "medium1", "hybrid_augreg_imagenet21k", "R50+ViT-L/32", dropout_rate=0.1)


def hybrid_imagenet(situation: Situation) -> TrainConfig:
    """R26+ViT-S/32 on ImageNet for 300 epochs (Steiner et al. 2021), at the level medium2.

    Command: `vitrail train hybrid_imagenet --data imagenet:FOLDER`. Published: 79.61 % at 224 pixels; which level gave
    it is not published, medium2 is big_vision's for ViT-S/16. Not run here.
    """
    return augreg(situation, "medium2", "hybrid_imagenet", "R26+ViT-S/32")


def _bit(situation: Situation, name: str, learning_rate: float, warmup_steps: int) -> TrainConfig:
    """BiT's ResNet-50 as big_vision trains it: SGD with momentum, batch 4096, 90 epochs.

    The rates are for 256 pictures. Its decay is taken off the weights without passing through the momentum, 1e-4 where
    the learning rate is 0.1 and 3e-5 where it is 0.03: 1e-3 of the learning rate in our form. Kolesnikov et al. 2020
    divide the rate by ten after 30, 60 and 80 epochs, where this is big_vision's cosine.
    """
    return TrainConfig(
        recipe=name,
        data=situation.data,
        model=replace(get_resnet_config("BiT-R50x1"), num_classes=situation.facts.num_classes),
        preprocessing=HALF,
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0)),
        objective=SupervisedConfig(balance=situation.balance),
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=learning_rate * 4096 / 256, momentum=0.9, weight_decay=1e-3, clip_norm=1.0
        ),
        schedule=ScheduleConfig(epochs=90, warmup_epochs=warmup_epochs(situation, 4096, warmup_steps)),
        batch_size=4096,
        accumulation_steps=4096 // MICRO_BATCH,
        seed=situation.seed,
    )


def bit_imagenet(situation: Situation) -> TrainConfig:
    """BiT-R50x1 on ImageNet with momentum SGD: 90 epochs, learning rate 0.1 for 256 pictures, softmax.

    Command: `vitrail train bit_imagenet --data imagenet:FOLDER`. No figure of this size is printed; published for BiT-S
    R152x4: 81.30 % after fine-tuning (Kolesnikov et al. 2020). Not run here.
    """
    return _bit(situation, "bit_imagenet", 0.1, 1_000)


def bit_imagenet21k(situation: Situation) -> TrainConfig:
    """BiT-R50x1 on ImageNet-21k with momentum SGD: 90 epochs, learning rate 0.03 for 256 pictures, sigmoid loss.

    Command: `vitrail train bit_imagenet21k --data imagenet21k:FOLDER`. Published for BiT-M R50x1: 80.68 % on
    ImageNet after fine-tuning (the repository of Kolesnikov et al. 2020). Not run here.
    """
    config = _bit(situation, "bit_imagenet21k", 0.03, 5_000)
    model = with_sigmoid_head(get_resnet_config("BiT-R50x1"), situation.facts.num_classes)
    return replace(config, model=model, objective=SupervisedConfig(loss="sigmoid", balance=situation.balance))
