"""Recipes by name: functions from a situation to a full `TrainConfig`; their docstrings say what to expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitrail.data.config import DataConfig
from vitrail.errors import ConfigError, did_you_mean
from vitrail.recipes.cifar import cifar10_20min
from vitrail.recipes.finetune import finetune
from vitrail.recipes.from_scratch import digits_vit, photos, small_photos, small_pictures
from vitrail.recipes.paper_axial import axial_resnet50_large_data, axial_vit_large_data
from vitrail.recipes.paper_finetuning import (
    bit_hyperrule,
    finetune_cifar,
    finetune_imagenet,
    finetune_imagenet_large,
    finetune_small,
    finetune_vtab,
)
from vitrail.recipes.paper_pretraining import (
    augreg_imagenet21k,
    augreg_light1,
    augreg_light2,
    augreg_medium1,
    augreg_medium2,
    augreg_none,
    augreg_strong1,
    augreg_strong2,
    deit_s16,
    plain_vit_s16,
    vit_huge_large_data,
    vit_imagenet,
    vit_imagenet21k,
    vit_large_data,
    vit_large_imagenet21k,
    vit_large_large_data,
)
from vitrail.recipes.paper_resnets import (
    bit_imagenet,
    bit_imagenet21k,
    hybrid_augreg_imagenet21k,
    hybrid_base32_large_data,
    hybrid_base_large_data,
    hybrid_imagenet,
    hybrid_imagenet21k,
    hybrid_large32_large_data,
    hybrid_large_large_data,
    resnet50_large_data,
    resnet50x2_large_data,
    resnet101_large_data,
    resnet152_large_data,
    resnet152x2_large_data,
)
from vitrail.recipes.self_supervised import masked_patches, masked_patches_b16, next_patch
from vitrail.recipes.situation import Situation, StartingWeights
from vitrail.training.config import TrainConfig

Recipe = Callable[[Situation], TrainConfig]

RECIPES: dict[str, Recipe] = {
    "digits_vit": digits_vit,
    "small_pictures": small_pictures,
    "cifar10_20min": cifar10_20min,
    "small_photos": small_photos,
    "photos": photos,
    "finetune": finetune,
    "vit_imagenet": vit_imagenet,
    "vit_imagenet21k": vit_imagenet21k,
    "vit_large_imagenet21k": vit_large_imagenet21k,
    "vit_large_data": vit_large_data,
    "vit_large_large_data": vit_large_large_data,
    "vit_huge_large_data": vit_huge_large_data,
    "augreg_none": augreg_none,
    "augreg_light1": augreg_light1,
    "augreg_light2": augreg_light2,
    "augreg_medium1": augreg_medium1,
    "augreg_medium2": augreg_medium2,
    "augreg_strong1": augreg_strong1,
    "augreg_strong2": augreg_strong2,
    "augreg_imagenet21k": augreg_imagenet21k,
    "plain_vit_s16": plain_vit_s16,
    "deit_s16": deit_s16,
    "resnet50_large_data": resnet50_large_data,
    "resnet50x2_large_data": resnet50x2_large_data,
    "resnet101_large_data": resnet101_large_data,
    "resnet152_large_data": resnet152_large_data,
    "resnet152x2_large_data": resnet152x2_large_data,
    "hybrid_base32_large_data": hybrid_base32_large_data,
    "hybrid_base_large_data": hybrid_base_large_data,
    "hybrid_large32_large_data": hybrid_large32_large_data,
    "hybrid_large_large_data": hybrid_large_large_data,
    "hybrid_imagenet": hybrid_imagenet,
    "hybrid_imagenet21k": hybrid_imagenet21k,
    "hybrid_augreg_imagenet21k": hybrid_augreg_imagenet21k,
    "bit_imagenet": bit_imagenet,
    "bit_imagenet21k": bit_imagenet21k,
    "axial_vit_large_data": axial_vit_large_data,
    "axial_resnet50_large_data": axial_resnet50_large_data,
    "finetune_imagenet": finetune_imagenet,
    "finetune_imagenet_large": finetune_imagenet_large,
    "finetune_cifar": finetune_cifar,
    "finetune_small": finetune_small,
    "finetune_vtab": finetune_vtab,
    "bit_hyperrule": bit_hyperrule,
    "masked_patches": masked_patches,
    "masked_patches_b16": masked_patches_b16,
    "next_patch": next_patch,
}

__all__ = ["RECIPES", "Choice", "Recipe", "Situation", "StartingWeights", "choose", "get_recipe"]


@dataclass(frozen=True)
class Choice:
    recipe: str
    reason: str  # one clause: "the pictures are 8x8"


def get_recipe(name: str) -> Recipe:
    """Raises ConfigError for a name that is not in `RECIPES`, with the nearest one that is."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe '{name}'.{did_you_mean(name, RECIPES)} See `vitrail train --list`.")
    return RECIPES[name]


def needs_weights(name: str) -> bool:
    """Whether a recipe takes its architecture from the weights it starts from, and so refuses to go without any."""
    try:
        get_recipe(name)(Situation(DataConfig("PHOTOS")))
    except ConfigError:
        return True
    return False


def choose(situation: Situation) -> Choice:
    """The recipe for a situation: starting weights decide first, then the size of the pictures, then their number."""
    if situation.start is not None:
        return Choice("finetune", f"it starts from the weights in {situation.start.path}")
    height, width = situation.facts.picture_size
    size = f"the pictures are small ({width}x{height})"
    if max(height, width) <= 16:
        return Choice("digits_vit", size)
    if max(height, width) <= 48:
        return Choice("small_pictures", size)
    count = situation.facts.num_train
    if count < 20_000:
        few = f"there are {count:,} photographs to learn from and no starting weights"
        return Choice("small_photos", f"{few}: too few for a plain Vision Transformer, so convolutions come before it")
    return Choice("photos", f"there are {count:,} photographs to learn from")
