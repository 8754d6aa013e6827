"""The convolutional stem before the patch projection."""

from __future__ import annotations

import pytest
import torch

from vitrail.errors import ConfigError
from vitrail.layers.conv_stem import ConvStem
from vitrail.layers.initialization import initialize_layers
from vitrail.models.config import ViTConfig


def _stem() -> ConvStem:
    stem = ConvStem(3, (8, 48), (0, 2))
    initialize_layers(stem, torch.Generator().manual_seed(0))
    return stem


def test_every_width_halves_the_sides() -> None:
    assert _stem()(torch.randn(2, 3, 16, 24)).shape == (2, 48, 4, 6)


def test_a_picture_does_not_leak_into_its_neighbour_even_in_training() -> None:
    stem = _stem().train()
    images = torch.randn(2, 3, 16, 16)
    changed = torch.stack([images[0], torch.randn(3, 16, 16)])
    assert torch.equal(stem(images)[0], stem(changed)[0])


def test_blocks_are_counted_for_each_width() -> None:
    with pytest.raises(ConfigError, match=r"stem_blocks \(1,\) needs one number for each of stem_widths \(8, 16\)"):
        ViTConfig(stem="conv", stem_widths=(8, 16), stem_blocks=(1,))
