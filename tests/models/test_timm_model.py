"""Models of timm as baselines: what they cost, what they draw, and where timm is not there or has no such model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitrail.errors import ConfigError
from vitrail.models.build import build_model
from vitrail.models.kinds import count_macs, count_parameters, require_vit
from vitrail.models.timm_config import TimmConfig

timm = pytest.importorskip("timm")
SMALL = TimmConfig("ghostnet_050", (32, 48), in_channels=1, num_classes=3)


def test_its_costs_are_those_of_the_model_that_timm_builds() -> None:
    theirs = timm.create_model(SMALL.name, num_classes=3, in_chans=1).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(torch.zeros(1, 1, 32, 48))
    assert count_macs(SMALL) == counter.get_total_flops() // 2
    assert count_parameters(SMALL) == sum(parameter.numel() for parameter in theirs.parameters())


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_own_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build_model(SMALL, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert any(not torch.equal(tensor, other.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_the_head_on_the_features_is_the_whole_model() -> None:
    model = build_model(SMALL).eval()
    images = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.forward_head(model.forward_features(images)), model(images))


def test_a_model_of_one_picture_size_is_built_for_the_pictures_there_are() -> None:
    model = build_model(TimmConfig("vit_tiny_patch16_224", (32, 48), num_classes=2))
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 2)


def test_pictures_that_a_model_cannot_take_are_refused_before_any_training() -> None:
    with pytest.raises(ConfigError, match="timm's 'inception_v4' does not take pictures of 16 x 16 pixels"):
        count_macs(TimmConfig("inception_v4", (16, 16)))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"timm has no model 'ghostnet_10'\. Did you mean 'ghostnet_1"):
        build_model(TimmConfig("ghostnet_10"))


def test_what_needs_a_vision_transformer_says_what_this_is() -> None:
    with pytest.raises(ConfigError, match="needs a Vision Transformer, and the model is a model of timm, ghostnet_050"):
        require_vit(SMALL, "the study of shapes")


@pytest.mark.parametrize("fields", [{"name": ""}, {"in_channels": 0}, {"num_classes": -1}, {"image_size": (0, 32)}])
def test_a_config_that_cannot_be_is_refused_by_field(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        TimmConfig(**{"name": "resnet18", **fields})  # type: ignore[arg-type]


def test_without_timm_a_sentence_says_what_to_install_and_nothing_else_misses_it() -> None:
    code = """
import sys
sys.modules["timm"] = None
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.timm_config import TimmConfig
build_model(ViTConfig(image_size=(8, 8), patch_size=4, width=8, depth=1, num_heads=1, mlp_size=8))
try:
    build_model(TimmConfig("resnet18"))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ConfigError models of timm need timm, which is not installed: pip install timm\n"
