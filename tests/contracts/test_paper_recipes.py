"""The papers' pre-training recipes against the figures that the papers print."""

from __future__ import annotations

import math

import pytest
import torch

from vitrail.data.config import DataConfig
from vitrail.data.facts import DataFacts
from vitrail.models.build import build_model
from vitrail.models.kinds import get_model_config
from vitrail.models.resnet_config import ResNetConfig
from vitrail.objectives.config import SupervisedConfig
from vitrail.objectives.supervised import sigmoid_loss
from vitrail.recipes import RECIPES, Situation
from vitrail.recipes.paper_pretraining import with_sigmoid_head
from vitrail.recipes.scaling import shrink
from vitrail.training.config import TrainConfig

# Dosovitskiy et al. 2021, table 3: model, epochs, base learning rate, decay, weight decay, dropout.
TABLE_3 = {
    "vit_imagenet": ("ViT-B/16", 300, 3e-3, "cosine", 0.3, 0.1),
    "vit_imagenet21k": ("ViT-B/16", 90, 1e-3, "linear", 0.03, 0.1),
    "vit_large_imagenet21k": ("ViT-L/16", 90, 1e-3, "linear", 0.03, 0.1),
    "vit_large_data": ("ViT-B/16", 7, 8e-4, "linear", 0.1, 0.0),
    "vit_large_large_data": ("ViT-L/16", 14, 4e-4, "linear", 0.1, 0.0),
    "vit_huge_large_data": ("ViT-H/14", 14, 3e-4, "linear", 0.1, 0.0),
    "resnet50_large_data": ("BiT-R50x1", 7, 1e-3, "linear", 0.1, 0.0),
    "resnet50x2_large_data": ("BiT-R50x2", 7, 1e-3, "linear", 0.1, 0.0),
    "resnet101_large_data": ("BiT-R101x1", 7, 8e-4, "linear", 0.1, 0.0),
    "resnet152_large_data": ("BiT-R152x1", 7, 6e-4, "linear", 0.1, 0.0),
    "resnet152x2_large_data": ("BiT-R152x2", 7, 6e-4, "linear", 0.1, 0.0),
    "hybrid_base32_large_data": ("R50+ViT-B/32", 7, 8e-4, "linear", 0.1, 0.0),
    "hybrid_base_large_data": ("R50+ViT-B/16", 7, 8e-4, "linear", 0.1, 0.0),
    "hybrid_large32_large_data": ("R50+ViT-L/32", 7, 2e-4, "linear", 0.1, 0.0),
    "hybrid_large_large_data": ("R50+ViT-L/16", 14, 4e-4, "linear", 0.1, 0.0),
    # Not in the table: as the models that the axial ones are compared with in figure 13.
    "axial_vit_large_data": ("Axial-ViT-B/16", 7, 8e-4, "linear", 0.1, 0.0),
    "axial_resnet50_large_data": ("Axial-ResNet-50-L", 7, 1e-3, "linear", 0.1, 0.0),
}


def recipe(name: str, num_classes: int = 21_843, num_train: int = 14_000_000) -> TrainConfig:
    return RECIPES[name](Situation(DataConfig("x"), DataFacts(num_classes=num_classes, num_train=num_train)))


@pytest.mark.parametrize("name", TABLE_3)
def test_a_recipe_has_the_numbers_of_its_row_in_the_papers_table(name: str) -> None:
    variant, epochs, rate, decay, weight_decay, dropout = TABLE_3[name]
    config, published = recipe(name), get_model_config(variant)
    optimizer, schedule = config.optimizer, config.schedule
    assert (optimizer.name, optimizer.betas, optimizer.learning_rate) == ("adamw", (0.9, 0.999), rate)
    assert (optimizer.weight_decay, schedule.epochs, schedule.decay) == (weight_decay, epochs, decay)
    assert schedule.warmup_epochs * 14_000_000 == pytest.approx(10_000 * 4096)
    assert (config.batch_size, config.batch_size // config.accumulation_steps) == (4096, 256)
    assert config.preprocessing.image_size == (224, 224)
    model = config.model
    if isinstance(model, ResNetConfig):
        assert isinstance(published, ResNetConfig)
        assert (model.kind, model.depths, model.width_factor) == (
            published.kind,
            published.depths,
            published.width_factor,
        )
    else:
        for field in ("attention", "width", "depth", "num_heads", "mlp_size", "patch_size", "stem", "stem_blocks"):
            assert getattr(model, field) == getattr(published, field)
        assert (model.dropout_rate, model.pre_logits_size) == (dropout, model.width)


@pytest.mark.parametrize(
    "name",
    [
        "vit_imagenet21k",
        "hybrid_base_large_data",
        "resnet50_large_data",
        "axial_resnet50_large_data",
        "bit_imagenet21k",
        "augreg_medium2",
    ],
)
def test_a_sigmoid_head_begins_with_each_class_as_likely_as_it_is(name: str) -> None:
    for num_classes, bias in ((21_843, -10.0), (1000, -6.9)):  # as big_vision has them
        config = recipe(name, num_classes)
        assert isinstance(config.objective, SupervisedConfig)
        assert config.objective.loss == "sigmoid"
        assert config.model.head_bias_init == bias


def test_a_new_sigmoid_head_costs_about_one_wrong_answer_and_not_a_thousand() -> None:
    small = with_sigmoid_head(ResNetConfig(depths=(1,), width_factor=0.5, image_size=(32, 32)), 1000)
    model = build_model(small, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(1000)[:2]
    loss = sigmoid_loss(model(torch.zeros(2, 3, 32, 32)), targets)
    assert float(loss.mean().detach()) == pytest.approx(math.log(1000) + 1, abs=0.1)


@pytest.mark.parametrize("name", ["hybrid_base_large_data", "resnet50_large_data", "bit_imagenet21k"])
def test_hybrids_and_resnets_shrink_as_any_recipe_does(name: str) -> None:
    config = recipe(name)
    small, changes = shrink(config, 0.01)
    factor = 41 / 4096
    assert small.batch_size == 41
    power = 1.0 if config.optimizer.name == "sgd" else 0.5
    assert small.optimizer.learning_rate == pytest.approx(config.optimizer.learning_rate * factor**power)
    assert small.model == config.model
    assert [change.split()[0] for change in changes] == ["epochs", "batch", "learning"]
