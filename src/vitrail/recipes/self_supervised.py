"""Pre-training without labels: the pictures are their own targets."""

from __future__ import annotations

from dataclasses import replace

from vitrail.data.config import Augmentation, Preprocessing
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import require_vit
from vitrail.models.variants import get_config
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig, ObjectiveConfig, PatchTarget
from vitrail.recipes.situation import Situation
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig


def _small_vit(situation: Situation) -> tuple[ViTConfig, Preprocessing]:
    """The starting weights' own model; else a plain ViT on pictures of 32 to 128 pixels a side, in 16 or 64 patches."""
    if situation.start is not None:
        model = require_vit(situation.start.model, "training without labels")
        return replace(model, num_classes=0), situation.start.preprocessing
    longest = max(situation.facts.picture_size)
    side = 32 if longest <= 48 else 64 if longest <= 96 else 128
    half = (0.5,) * situation.facts.num_channels
    model = ViTConfig(
        image_size=(side, side),
        patch_size=max(8, side // 8),
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
    # 10,000 pictures are seen 20 times, fewer more often; none more than 400 times, none less than once.
    epochs = max(1.0, min(400.0, round(200_000 / max(1, situation.facts.num_train), 1)))
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
        batch_size=32,
        seed=situation.seed,
        weights=None if situation.start is None else situation.start.path,
        evaluate_every_epochs=epochs / 5,
    )


def masked_patches(situation: Situation) -> TrainConfig:
    """Masked patch prediction of the paper, with a small ViT: 4 x 4 colours of every patch in the hidden half.

    Command: `vitrail train masked_patches --data PHOTOS`, then `vitrail fit PHOTOS --weights RUN`. Dosovitskiy et al.
    2021, appendix B.1.2. Published: for ViT-B/16 on ImageNet 79.9 % after fine-tuning, 2 points over training from
    scratch and 4 below pre-training with labels, after 1M steps of 4,096 pictures. The labels are not looked at.

    Features of the middle are the best: probe with `--layer 1`. Measured on CIFAR-10 (recompressed), with a minute of
    one core of a busy machine a trial, 10 shots, 3,000 pictures held out, block 1, beside the same network untrained:
    the paper's first target, the mean colour of patches of 4 pixels, taught nothing of use (-0.4 and -0.8 points), as
    such small patches are guessed from their neighbours' colour; all pixels of patches of 4 +1.6 points, of patches of
    8 +2.1; 4 x 4 colours of patches of 8 +1.4 after 235 updates of 64, where these took 450 and 710 of 32. Hence the
    patches of 8 pixels and the target here. A run of this recipe with half of its length, cut off early: +1.6 points
    after 383 updates, +2.5 after 748; after 531 the 20 nearest neighbours named 30.3 % right, before the first 24.4 %.
    Whole, it makes 5,300 updates there, 10 to 15 minutes of one core, and block 1 names 25.7 % of 10,000 test pictures
    from 10 shots where the same network untrained names 21.9 % (one seed, 20 draws of the shots).
    """
    # Patches of 14 pixels do not shrink to 4 x 4.
    target: PatchTarget = "downsampled" if _small_vit(situation)[0].patch_size % 4 == 0 else "mean_color"
    return _recipe(situation, "masked_patches", MaskedPatchesConfig(target=target))


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
