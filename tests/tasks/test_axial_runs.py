"""Axial models on the whole way: trained from nothing, kept as a bundle, asked, gone on from at another size."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
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
from vitrail.models.axial_resnet_config import AxialResNetConfig
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.config import NextPatchConfig
from vitrail.objectives.next_patch import NextPatch
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.optimizer import parameter_groups
from vitrail.weights.adapters import WRITERS
from vitrail.weights.surgery import adapt
from vitrail.weights.writing import write_layout

VIT = ViTConfig(
    image_size=(32, 32), patch_size=8, num_classes=2, width=16, depth=2, num_heads=2, mlp_size=32,
    attention="axial", class_token=False, pooling="gap",
)  # fmt: skip
RESNET = AxialResNetConfig(image_size=(32, 32), depths=(1, 1), width_factor=0.25, num_heads=4, num_classes=2)


@dataclass(frozen=True)
class Place:
    """A folder with photos/ of two classes, and with the run of a model that was trained two steps on them."""

    folder: Path
    model: ModelConfig

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"


def config_of(data: Path, model: ModelConfig) -> TrainConfig:
    return TrainConfig(
        recipe="by hand",
        data=DataConfig(source=str(data)),
        model=model,
        preprocessing=Preprocessing((32, 32)),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.001),
        schedule=ScheduleConfig(epochs=1.0, steps=2, warmup_epochs=0.0),
        averaging=AveragingConfig(rate=0.9),
        batch_size=8,
        accumulation_steps=2,
        precision="float32",
        num_threads=1,
    )


@pytest.fixture(scope="module", params=[VIT, RESNET], ids=["vit", "resnet"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("axial"), request.param)
    generator = np.random.default_rng(0)
    for name, top in (("day", 90), ("night", -70)):
        (place.photos / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 50, (36, 36, 3)) + 100
            pixels[:18] += top
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place.photos / name / f"{number}.png")
    (place.folder / "config.json").write_text(json.dumps(to_dict(config_of(place.photos, place.model))))
    assert main(["train", "--config", str(place.folder / "config.json"), "--out", str(place.run)]) == 0
    return place


def test_it_is_trained_to_a_bundle_that_predicts_and_says_what_it_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = vitrail.load(place.run)
    assert bundle.config.model == place.model
    for page in ("bundle/README.md", "report.html"):
        assert f"{place.model.family}" in (place.run / page).read_text()
    assert "with axial attention" in place.model.family
    assert main(["predict", str(place.run), str(place.photos / "day" / "3.png"), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert {entry["label"] for entry in answer["top"]} == {"day", "night"}


@pytest.mark.parametrize("place", [RESNET], ids=["resnet"], indirect=True)
def test_fit_goes_on_from_its_bundle_at_another_size(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ["fit", str(place.photos), "--weights", str(place.run), "--minutes", "0.05"]
    assert main([*spec, "--image-size", "44", "--out", str(place.folder / "wrong")]) != 0
    assert "image_size 44 is no multiple of 8, as the model needs it; 48 is one" in capsys.readouterr().err
    assert main([*spec, "--image-size", "48", "--out", str(place.folder / "tuned")]) == 0
    assert vitrail.load(place.folder / "tuned").config.model == replace(place.model, image_size=(48, 48))


def test_positions_are_stretched_to_another_grid_and_the_rest_is_kept(place: Place) -> None:
    bundle = vitrail.load(place.run)
    model, sentences = adapt(bundle, replace(place.model, image_size=(48, 32)), bundle.config.labels)
    (sentence,) = sentences
    assert "positions of 32x32 -> 48x32 pixels" in sentence or "position embedding 4x4 -> 6x4" in sentence
    kept = bundle.model.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, kept[name])}
    if isinstance(place.model, ViTConfig):
        assert changed == {"pos_embed"}
    else:  # rows are as long as before
        assert changed == {f"stages.{stage}.blocks.0.columns.relative_positions" for stage in (0, 1)}
    model.eval()(torch.zeros(1, 3, 48, 32))


@pytest.mark.parametrize("place", [RESNET], ids=["resnet"], indirect=True)
def test_a_stretched_table_keeps_what_is_at_one_place_and_at_the_far_ends(place: Place) -> None:
    bundle = vitrail.load(place.run)
    model, _ = adapt(bundle, replace(place.model, image_size=(64, 32)), bundle.config.labels)
    name = "stages.0.blocks.0.columns.relative_positions"
    before, after = bundle.model.state_dict()[name], model.state_dict()[name]
    assert (len(before), len(after)) == (2 * 8 - 1, 2 * 16 - 1)
    torch.testing.assert_close(after[[0, 15, 30]], before[[0, 7, 14]])


def test_other_architectures_are_refused(place: Place) -> None:
    bundle = vitrail.load(place.run)
    other: ModelConfig = (
        replace(VIT, attention="global")
        if isinstance(place.model, ViTConfig)
        else ResNetConfig(image_size=(32, 32), depths=(1, 1), num_classes=2)
    )
    with pytest.raises(WeightsError, match=r"attention axial -> global|kind axial_resnet -> resnet"):
        adapt(bundle, other, bundle.config.labels)


@pytest.mark.parametrize("layout", WRITERS)
def test_no_published_layout_has_a_place_for_it(place: Place, layout: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"attention 'axial'|no place for a ResNet with axial attention"):
        write_layout(vitrail.load(place.run), layout, tmp_path / "written")


def test_its_config_goes_to_json_and_back(place: Place) -> None:
    config = config_of(place.photos, place.model)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))), "config.json") == config


def test_blocks_are_the_layers_of_the_learning_rate() -> None:
    model = build_model(VIT)
    groups = parameter_groups(model, OptimizerConfig(learning_rate=1.0, layer_decay=0.5))
    scale_of = {id(parameter): group["layer_scale"] for group in groups for parameter in group["params"]}
    scales = {name: scale_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert scales["blocks.1.rows.attn.qkv.weight"] == scales["blocks.1.columns.mlp.fc2.bias"] == 0.5
    assert scales["blocks.0.columns.norm1.weight"] == 0.25
    assert scales["pos_embed"] == 0.125


def test_the_next_patch_has_no_meaning_along_two_axes() -> None:
    model = build_model(replace(VIT, num_classes=0))
    assert isinstance(model, VisionTransformer)
    with pytest.raises(ConfigError, match="causal attention"):
        NextPatch(model, NextPatchConfig(), Preprocessing((32, 32)))
