"""A ResNet on the whole way: trained from nothing, kept as a bundle, fine-tuned from it; and where it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.main import main
from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import DataConfig, Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_config import ResNetConfig
from vitrail.objectives.config import MaskedPatchesConfig
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.optimizer import parameter_groups
from vitrail.weights.surgery import adapt

TINY = ResNetConfig(image_size=(32, 32), depths=(1, 1), width_factor=0.5, num_classes=2)


def config_of(data: Path) -> TrainConfig:
    return TrainConfig(
        recipe="by hand",
        data=DataConfig(source=str(data)),
        model=TINY,
        preprocessing=Preprocessing((32, 32)),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.01, layer_decay=0.5),
        schedule=ScheduleConfig(epochs=1.0, steps=2, warmup_epochs=0.0),
        batch_size=8,
        precision="float32",
        num_threads=1,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ of two classes, and with the run of a ResNet that was trained two steps on them."""
    folder = tmp_path_factory.mktemp("resnets")
    generator = np.random.default_rng(0)
    for name, top in (("day", 90), ("night", -70)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 50, (36, 36, 3)) + 100
            pixels[:18] += top
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name / f"{number}.png")
    (folder / "config.json").write_text(json.dumps(to_dict(config_of(folder / "photos"))))
    assert main(["train", "--config", str(folder / "config.json"), "--out", str(folder / "run")]) == 0
    return folder


def test_a_resnet_is_trained_to_a_bundle_that_predicts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = vitrail.load(place / "run")
    assert isinstance(bundle.model, ResNet)
    assert bundle.config.model == TINY
    assert "BiT" in (place / "run" / "bundle" / "README.md").read_text()
    assert "BiT ResNet of 8 layers" in (place / "run" / "report.html").read_text()
    assert main(["predict", str(place / "run"), str(place / "photos" / "day" / "3.png"), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert {entry["label"] for entry in answer["top"]} == {"day", "night"}


def test_fit_goes_on_from_a_resnets_bundle_at_another_size(place: Path) -> None:
    spec = ["fit", str(place / "photos"), "--weights", str(place / "run"), "--minutes", "0.05"]
    assert main([*spec, "--image-size", "40", "--out", str(place / "tuned")]) == 0
    tuned = vitrail.load(place / "tuned")
    assert tuned.config.model == replace(TINY, image_size=(40, 40))


def test_the_head_starts_afresh_for_other_labels_and_the_rest_is_kept(place: Path) -> None:
    bundle = vitrail.load(place / "run")
    model, sentences = adapt(bundle, replace(TINY, num_classes=3, image_size=(48, 20)), ("a", "b", "c"))
    assert sentences == ["head fresh, 3 classes"]
    kept = bundle.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert not tensor.any() if name.startswith("head") else torch.equal(tensor, kept[name])
    with pytest.raises(WeightsError, match="of a BiT ResNet, and the model asked for is a Vision Transformer"):
        adapt(bundle, ViTConfig(num_classes=2), ("a", "b"))
    with pytest.raises(WeightsError, match="depths"):
        adapt(bundle, replace(TINY, depths=(1, 2)), ("a", "b"))


def test_stages_are_the_layers_of_the_learning_rate() -> None:
    config = OptimizerConfig(learning_rate=1.0, layer_decay=0.5)
    model = ResNet(TINY)
    scale_of = {
        id(parameter): group["layer_scale"]
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    }
    scales = {name: scale_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert scales["stem.conv.weight"] == 0.125
    assert scales["stages.0.blocks.0.conv1.weight"] == 0.25
    assert scales["stages.1.blocks.0.norm1.bias"] == 0.5
    assert scales["norm.weight"] == scales["head.fc.weight"] == 1.0


def test_a_config_of_either_kind_goes_to_json_and_back_and_old_ones_have_none(tmp_path: Path) -> None:
    resnet = config_of(tmp_path)
    transformer = replace(resnet, model=ViTConfig(image_size=(32, 32)))
    for config in (resnet, transformer):
        assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))), "config.json") == config
    assert "kind" not in to_dict(transformer)["model"]
    data = to_dict(resnet)
    data["model"]["patch_size"] = 16
    with pytest.raises(ConfigError, match="unknown field 'patch_size'"):
        from_dict(TrainConfig, data, "config.json")
    data["model"]["kind"] = "resnest"
    with pytest.raises(ConfigError, match="kind 'resnest' is none of resnet"):
        from_dict(TrainConfig, data, "config.json")


def test_patches_cannot_be_predicted_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a Vision Transformer"):
        replace(config_of(tmp_path), model=replace(TINY, num_classes=0), objective=MaskedPatchesConfig())
