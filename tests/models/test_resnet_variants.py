"""BiT's names, timm's aliases, and one face for both kinds of model."""

from __future__ import annotations

import json

import pytest
import torch

import vitrail
from vitrail.cli.models import run
from vitrail.errors import ConfigError
from vitrail.models.kinds import count_parameters, get_model_config
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_variants import RESNET_VARIANTS, TIMM_NAMES


def test_create_builds_a_resnet_by_name_with_its_fields() -> None:
    with torch.device("meta"):
        model = vitrail.create("BiT-R50x1", num_classes=10, image_size=(128, 128))
    assert isinstance(model, ResNet)
    assert (model.config.num_classes, model.config.image_size) == (10, (128, 128))
    with pytest.raises(ConfigError, match="unknown field 'patch_size'"):
        vitrail.create("BiT-R50x1", patch_size=16)


def test_every_alias_has_the_tensors_that_timm_has() -> None:
    timm = pytest.importorskip("timm")
    for alias, name in TIMM_NAMES.items():
        assert RESNET_VARIANTS[name].timm_names == (alias,)
    with torch.device("meta"):
        for alias in ("resnetv2_50x1_bit", "resnetv2_101x3_bit"):
            own, peer = vitrail.create(alias).state_dict(), timm.create_model(alias).state_dict()
            assert {key: tensor.shape for key, tensor in own.items()} == {
                key: tensor.shape for key, tensor in peer.items()
            }


def test_every_depth_and_width_can_be_named() -> None:
    config = get_model_config("BiT-R26x0.5@96x64")
    assert config.image_size == (96, 64)
    assert count_parameters(config) < count_parameters(get_model_config("BiT-R26x1"))


@pytest.mark.parametrize("name", ["BiT-R51x1", "bit-R50x1", "resnetv2_50x2_bit"])
def test_an_unknown_name_is_met_with_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .(BiT|resnetv2)"):
        get_model_config(name)


def test_the_command_lists_them_with_their_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["BiT-R50x1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["parameters"], row["tokens"], row["timm"]) == (25_549_352, None, ["resnetv2_50x1_bit"])
    assert run(["resnetv2_152x4"]) == 0
    assert "936.53 M" in capsys.readouterr().out
