"""The hybrids' ResNet against timm's, and the laws of its parts."""

from __future__ import annotations

import pytest
import torch

from vitrail.layers.initialization import initialize_layers
from vitrail.layers.resnet_stem import BottleneckUnit, ResNetRoot, ResNetStem


@pytest.mark.parametrize("units", [(), (1,), (2, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("size", [(32, 64), (33, 47)])
def test_a_stem_answers_as_timms_with_its_state_dict(units: tuple[int, ...], size: tuple[int, int]) -> None:
    theirs = pytest.importorskip("timm.models.vision_transformer_hybrid")._resnetv2(units).eval()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=generator) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours = ResNetStem(3, 64, units, numerics="timm") if units else ResNetRoot(3, 64, numerics="timm")
    ours.load_state_dict(state)  # strictly: the names are timm's
    images = torch.randn(2, 3, *size, generator=generator)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_google_and_timm_differ_by_their_small_numbers_alone() -> None:
    torch.manual_seed(0)
    google, timm = ResNetStem(3, 64, (1, 1)), ResNetStem(3, 64, (1, 1), numerics="timm")
    timm.load_state_dict(google.state_dict())
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        difference = (google(images) - timm(images)).abs().max()
    assert 0 < difference < 1e-2


def test_a_new_unit_is_its_shortcut() -> None:
    unit = BottleneckUnit(128, 32)
    initialize_layers(unit, torch.Generator().manual_seed(0))
    features = torch.rand(2, 128, 5, 6)
    torch.testing.assert_close(unit(features), features)


def test_equal_generators_give_equal_stems() -> None:
    stems = [ResNetStem(3, 32, (1, 1)) for _ in range(2)]
    for stem in stems:
        initialize_layers(stem, torch.Generator().manual_seed(7))
    first, second = (stem.state_dict() for stem in stems)
    assert all(torch.equal(first[name], second[name]) for name in first)
    root = first["stem.conv.weight"]
    assert float(root.std()) == pytest.approx((1 / 147) ** 0.5, rel=0.05)  # LeCun normal of 3 x 7 x 7 values


def test_a_picture_does_not_leak_into_its_neighbour() -> None:
    torch.manual_seed(0)
    stem = ResNetStem(3, 32, (1, 1))
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(stem(images)[:1], stem(images[:1]))
