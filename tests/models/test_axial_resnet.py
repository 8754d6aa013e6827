"""Axial-ResNets against published counts, torch's own counter, and what a picture may depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vitrail
from vitrail.cli.models import run
from vitrail.errors import ConfigError
from vitrail.models.axial_resnet import AxialResNet
from vitrail.models.axial_resnet_config import AXIAL_RESNETS, AxialResNetConfig
from vitrail.models.axial_resnet_costs import count_macs, count_parameters
from vitrail.models.kinds import get_model_config

TINY = AxialResNetConfig(image_size=(16, 24), depths=(1, 2), width_factor=0.25, num_heads=4, num_classes=3)


def filled(config: AxialResNetConfig) -> AxialResNet:
    """A model of which no tensor is zero throughout, so that nothing is lost in it."""
    generator = torch.Generator().manual_seed(0)
    model = AxialResNet(config, generator=generator).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv" not in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Those of the code of Wang et al. 2020 (axial-deeplab: axial26s, axial50s, axial50m, axial50l), which gives the first
# as 5.9 M.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Axial-ResNet-26-S", 5_944_936),
        ("Axial-ResNet-50-S", 11_586_216),
        ("Axial-ResNet-50-M", 25_179_400),
        ("Axial-ResNet-50-L", 43_973_480),
    ],
)
def test_parameters_are_the_published_counts(name: str, expected: int) -> None:
    config = AXIAL_RESNETS[name].config
    assert f"-{config.num_layers}-" in name
    with torch.device("meta"):
        model = AxialResNet(config, initialize=False)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    "config", [replace(AXIAL_RESNETS["Axial-ResNet-26-S"].config, image_size=(224, 160)), replace(TINY, in_channels=1)]
)
def test_the_formulas_agree_with_torchs_counter(config: AxialResNetConfig) -> None:
    with torch.device("meta"):
        model = AxialResNet(config, initialize=False)
        with FlopCounterMode(display=False) as counter:
            features = model.forward_features(torch.empty(1, config.in_channels, *config.image_size))
            model.forward_head(features)
    assert counter.get_total_flops() == 2 * count_macs(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    assert features.shape == (1, config.num_features, *config.grid)


def test_a_picture_does_not_leak_into_its_neighbour() -> None:
    model = filled(TINY)
    images = pictures(2, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-5, atol=1e-5)


def test_a_new_unit_is_its_shortcut() -> None:
    features = pictures(2, 128, 2, 3).relu()
    fresh, trained = (model.stages[1].blocks[1] for model in (AxialResNet(TINY), filled(TINY)))  # type: ignore[union-attr, index]
    with torch.no_grad():
        assert torch.equal(fresh(features), features)
        assert not torch.equal(trained(features), features)


def test_equal_generators_give_equal_weights_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (AxialResNet(TINY, generator=torch.Generator().manual_seed(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for is_on in (False, True):
        model = filled(TINY).train()
        model.gradient_checkpointing = is_on
        model(pictures(2, 3, 16, 24)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(plain, recomputed)


def test_intermediates_are_the_stages_and_end_in_the_features() -> None:
    model = filled(TINY)
    images = pictures(1, 3, 16, 24)
    with torch.no_grad():
        stages = model.forward_intermediates(images)
        assert [tuple(stage.shape[1:]) for stage in stages.values()] == [
            (16, 4, 6), (64, 4, 6), (128, 2, 3), (128, 2, 3),
        ]  # fmt: skip
        assert torch.equal(stages["norm"], model.forward_features(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (16, 20)}, "image_size 16 x 20 must be multiples of 8"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"width_factor": 0.3}, "root of 19.2 channels"),
        ({"kind": "resnet"}, "kind 'resnet' is not 'axial_resnet'"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"24 x 16 pixels .* \(16, 24\)"):
        filled(TINY)(pictures(1, 3, 24, 16))


def test_it_is_created_by_name_in_any_size() -> None:
    with torch.device("meta"):
        model = vitrail.create("Axial-ResNet-26-S@64x96", num_classes=5)
    assert isinstance(model, AxialResNet)
    assert (model.config.image_size, model.config.num_classes) == ((64, 96), 5)
    for wrong in ("Axial-ResNet-26S", "Axial-ResNet-50-L@", "axial-resnet-50-l"):
        with pytest.raises(ConfigError, match="Did you mean 'Axial-ResNet-"):
            get_model_config(wrong)


def test_the_command_lists_every_axial_model_with_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["axial-", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["Axial-ResNet-26-S"]["parameters"] == 5_944_936
    assert (rows["Axial-ViT-B/16"]["parameters"], rows["Axial-ViT-B/16"]["tokens"]) == (171_620_584, 196)
    assert len(rows) == 8
