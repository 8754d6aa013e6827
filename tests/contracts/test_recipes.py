"""Every recipe: what it says of itself, and two steps of it on made-up data."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.facts import DataFacts
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.recipes import RECIPES, Situation, StartingWeights, choose
from vitrail.recipes.scaling import SMALLEST_BATCH, shrink
from vitrail.tasks.train import train
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.schedule import make_plan
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.surgery import VisionTransformer

START = ViTConfig(image_size=(32, 32), patch_size=16, width=32, depth=1, num_heads=2, mlp_size=32, num_classes=2)


def situation(source: str = "PHOTOS", start: str = "WEIGHTS", num_train: int = 100_000) -> Situation:
    weights = StartingWeights(start, START, Preprocessing(image_size=(32, 32)))
    return Situation(DataConfig(source), DataFacts(num_classes=2, num_train=num_train), weights)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_and_what_to_expect(name: str) -> None:
    about = inspect.getdoc(RECIPES[name]) or ""
    told = ("Measured", "Published", "Not run", "not run", "obody has")
    assert any(word in about for word in told), f"{name} does not say what to expect"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_written_down_and_read_back(name: str) -> None:
    config = RECIPES[name](situation())
    assert config.recipe == name
    assert from_dict(TrainConfig, to_dict(config), name) == config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with two classes of 8 pictures, and weights/ to start from."""
    folder = tmp_path_factory.mktemp("recipes")
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    start = BundleConfig(model=START, labels=("x", "y"), preprocessing=Preprocessing(image_size=(32, 32)))
    save_bundle(folder / "weights", VisionTransformer(START), start)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_two_steps(name: str, place: Path, tmp_path: Path) -> None:
    """With a small model of its own kind: one block or stage, few features, pictures of two patches a side."""
    config = RECIPES[name](situation(str(place / "photos"), str(place / "weights"), num_train=12))
    model, size = config.model, (32, 32)
    if isinstance(model, ResNetConfig):
        model = replace(model, depths=(1,), width_factor=0.5)
    elif config.weights is None:
        shape = {"width": 32, "depth": 1, "num_heads": 2, "mlp_size": 32, "head_dim": None}
        model = replace(model, **shape, pre_logits_size=model.pre_logits_size and 16)
        if model.stem == "resnet":
            model = replace(model, stem_widths=(32,), stem_blocks=(1,), patch_size=8)
    if isinstance(model, ViTConfig):
        size = (2 * model.patch_size,) * 2
    config = replace(
        config,
        model=replace(model, image_size=size),
        preprocessing=replace(config.preprocessing, image_size=size),
        schedule=replace(config.schedule, steps=2),
        batch_size=4,
        accumulation_steps=1,
        precision="float32",
        num_threads=1,
        loader=replace(config.loader, num_workers=0),
    )
    with Events() as events:
        result = train(config, str(tmp_path / "run"), events)
    assert result.config.schedule.steps == 2
    assert (tmp_path / "run" / "bundle" / "model.safetensors").exists()


@pytest.mark.parametrize("scale", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("name", RECIPES)
def test_a_shrunk_recipe_keeps_the_shape_of_its_schedule(name: str, scale: float) -> None:
    config = RECIPES[name](situation(num_train=1_281_167))
    small, changes = shrink(config, scale)
    assert changes
    assert small.batch_size <= config.batch_size
    assert small.batch_size >= min(SMALLEST_BATCH, config.batch_size) - small.accumulation_steps
    plans = [make_plan(each, round(1_281_167 / each.batch_size)) for each in (config, small)]
    assert plans[1].total_steps == pytest.approx(scale * plans[0].total_steps, rel=0.02, abs=1)
    shares = [plan.warmup_steps / plan.total_steps for plan in plans]
    assert shares[1] == pytest.approx(shares[0], abs=0.02 + 1 / plans[1].total_steps)


def test_a_scale_is_a_share() -> None:
    config = RECIPES["vit_imagenet"](situation())
    assert shrink(config, 1.0) == (config, [])
    for scale in (0.0, -1.0, 1.5):
        with pytest.raises(ConfigError, match="scale"):
            shrink(config, scale)


def test_recipes_that_need_weights_say_so_and_choose_never_takes_one_without() -> None:
    bare = replace(situation(), start=None)
    for name, recipe in RECIPES.items():
        if "finetune" in name or name == "bit_hyperrule":
            with pytest.raises(ConfigError, match="--weights"):
                recipe(bare)
    assert "finetune" not in choose(bare).recipe


def test_few_photographs_get_convolutions_first_and_the_reason_says_so() -> None:
    few = Situation(DataConfig("PHOTOS"), DataFacts(num_classes=10, num_train=1_284, picture_size=(533, 400)), None)
    choice = choose(few)
    model = RECIPES[choice.recipe](few).model
    assert isinstance(model, ViTConfig)
    assert model.stem != "patch"
    assert "1,284 photographs" in choice.reason
    assert "convolutions" in choice.reason
