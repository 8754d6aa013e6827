"""Pre-training without labels: the pictures are their own targets."""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation, Preprocessing
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import require_vit
from vitrail.models.variants import get_config
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig, ObjectiveConfig
from vitrail.recipes.situation import Situation
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig


def _small_vit(situation: Situation) -> tuple[ViTConfig, Preprocessing]:
    """The starting weights' own model; else a plain ViT on pictures of 32, 64 or 128 pixels a side, in 64 patches."""
    if situation.start is not None:
        model = require_vit(situation.start.model, "training without labels")
        return replace(model, num_classes=0), situation.start.preprocessing
    longest = max(situation.facts.picture_size)
    side = 32 if longest <= 48 else 64 if longest <= 96 else 128
    half = (0.5,) * situation.facts.num_channels
    model = ViTConfig(
        image_size=(side, side),
        patch_size=side // 8,
        in_channels=situation.facts.num_channels,
        num_classes=0,
        width=192,
        depth=4,
        num_heads=3,
        mlp_size=768,
        # A short run need not learn first which patch lies beside which.
        position_embedding="sincos_2d_mae",
        # Neither objective teaches a class token anything: features are the mean of the patches.
        pooling="gap",
        class_token=False,
    )
    return model, Preprocessing(image_size=(side, side), mean=half, std=half)


def _recipe(situation: Situation, name: str, objective: ObjectiveConfig) -> TrainConfig:
    model, preprocessing = _small_vit(situation)
    # 10,000 pictures are seen 23 times, fewer more often; none more than 400 times, none less than once.
    epochs = max(1.0, min(400.0, round(230_000 / max(1, situation.facts.num_train), 1)))
    return TrainConfig(
        recipe=name,
        data=situation.data,
        model=model,
        preprocessing=preprocessing,
        augmentation=Augmentation(crop="inception", crop_area=(0.5, 1.0)),
        objective=objective,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=1e-3, kernel_rate=2.0, weight_decay=0.5, betas=(0.9, 0.95), momentum=0.95
        ),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=epochs / 20),
        batch_size=64,
        seed=situation.seed,
        weights=None if situation.start is None else situation.start.path,
        evaluate_every_epochs=epochs / 5,
    )


def masked_patches(situation: Situation) -> TrainConfig:
    """Masked patch prediction of the paper, with a small ViT: all pixels of the patches in the hidden three quarters.

    Command: `vitrail train masked_patches --data PHOTOS`, then `vitrail fit PHOTOS --weights RUN`. Dosovitskiy et al.
    2021, appendix B.1.2. Published: for ViT-B/16 on ImageNet 79.9 % after fine-tuning, 2 points over training from
    scratch and 4 below pre-training with labels, after 1M steps of 4,096 pictures. The labels are not looked at.

    Features of the middle are the best: probe with `--layer 2`. Measured on CIFAR-10 (recompressed; 3,054 updates, 12
    minutes of one core of an AMD EPYC): of 10,000 test pictures block 2 names 29.3, 29.1 and 29.7 % from 10 shots
    (seeds 0, 1, 2; 20 draws of the shots each) where the same network untrained names 23.4 %.

    Not the paper's settings, which taught little of use in as short a time: with half of the patches hidden, the mean
    colour of patches of 4 pixels gave -0.4 and -0.8 points, since it is guessed from the neighbours' colour; 4 x 4
    colours of patches of 8 pixels +3.8 after a whole run. Here +4.3 were there after 900 updates; 6 blocks in place of
    4 gave +3.7 then.
    """
    return _recipe(situation, "masked_patches", MaskedPatchesConfig(target="pixels", corrupted_share=0.75))


def masked_patches_b16(situation: Situation) -> TrainConfig:
    """Masked patch prediction as the paper ran it: ViT-B/16, 1M updates of 4,096 pictures, Adam at 2e-4, cosine.

    Command: `vitrail train masked_patches_b16 --data PHOTOS --scale 0.01`. Dosovitskiy et al. 2021, appendix B.1.2.
    Published: 79.9 % on ImageNet after fine-tuning, pre-trained on JFT-300M (14 epochs); about as much from ImageNet,
    and little more from 100,000 updates on. Not run whole here. The paper does not state the weight decay: 0.1 is what
    it has for JFT (table 3).
    """
    batch_size, num_steps, warmup_steps = 4096, 1_000_000, 10_000
    epochs = num_steps * batch_size / max(1, situation.facts.num_train)
    return TrainConfig(
        recipe="masked_patches_b16",
        data=situation.data,
        model=replace(get_config("ViT-B/16"), num_classes=0, activation="gelu_tanh"),
        preprocessing=Preprocessing(image_size=(224, 224), crop_fraction=0.875),
        augmentation=Augmentation(crop="inception", crop_area=(0.05, 1.0)),
        objective=MaskedPatchesConfig(),
        optimizer=OptimizerConfig(learning_rate=2e-4, weight_decay=0.1),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=epochs * warmup_steps / num_steps),
        batch_size=batch_size,
        accumulation_steps=16,
        seed=situation.seed,
        evaluate_every_epochs=epochs / 100,
    )


def next_patch(situation: Situation) -> TrainConfig:
    """Prediction of each patch from those before it, with a small ViT and causal attention.

    Command: `vitrail train next_patch --data PHOTOS`, then `vitrail fit PHOTOS --weights RUN`, which attends fully
    again. After Chen et al. 2020, "Generative pretraining from pixels", with patches for pixels; nobody has measured it
    yet. The labels are not looked at.
    """
    return _recipe(situation, "next_patch", NextPatchConfig())
