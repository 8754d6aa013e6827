"""Where a finished run's model looks: the functions of `vitrail.inspection`, on its pictures, some at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import Picture
from vitrail.data.sources.base import ArraySource
from vitrail.errors import ImageError
from vitrail.inspection.distance import mean_attention_distance
from vitrail.inspection.rollout import attention_rollout
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks import looking
from vitrail.tasks.looking import NUM_MEASURED, look_at, measure_distance
from vitrail.weights.bundle import Bundle, BundleConfig

CONFIG = ViTConfig(image_size=(16, 24), patch_size=8, width=16, depth=2, num_heads=2, mlp_size=32, num_classes=2)
PREPROCESSING = Preprocessing(image_size=(16, 24), resize="squash")


class HalfBroken(ArraySource):
    """Every odd picture cannot be read."""

    def open(self, index: int) -> Picture:
        if index % 2:
            raise ImageError(self.key(index), "truncated")
        return super().open(index)


def pictures(count: int, kind: type[ArraySource] = ArraySource) -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)
    return kind("noise", "noise", pixels, ("a", "b"), np.arange(count) % 2, np.zeros(count, np.int8))


def bundle_of(config: ModelConfig, **changes: Any) -> Bundle:
    model = build_model(config, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    preprocessing = replace(PREPROCESSING, image_size=config.image_size)
    return Bundle(model, BundleConfig(config, ("a", "b"), preprocessing), Path("nowhere"))


def images_of(source: ArraySource, indices: np.ndarray) -> torch.Tensor:
    return normalize(torch.from_numpy(source.pixels[indices].transpose(0, 3, 1, 2).copy()), PREPROCESSING)


def test_looks_are_the_rollouts_of_the_pictures_as_the_model_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, source = bundle_of(CONFIG), pictures(9)
    indices = np.array([7, 1, 4, 8])
    looks = look_at(bundle, source, indices)
    assert isinstance(bundle.model, VisionTransformer)
    maps = attention_rollout(bundle.model, images_of(source, indices)).maps[-1].numpy()
    assert list(looks) == indices.tolist()
    for index, expected in zip(indices.tolist(), maps, strict=True):
        np.testing.assert_array_equal(looks[index].pixels, source.pixels[index])
        np.testing.assert_allclose(looks[index].rollout, expected, rtol=1e-6)
    monkeypatch.setattr(looking, "_MATRIX_BYTES", 1)  # one picture at a time
    for index, look in look_at(bundle, source, indices).items():
        np.testing.assert_allclose(look.rollout, looks[index].rollout, rtol=1e-6)


@pytest.mark.parametrize("count", [3, 50])
def test_distances_are_the_mean_over_all_pictures_however_they_are_batched(count: int) -> None:
    bundle, source = bundle_of(CONFIG), pictures(count)
    found = measure_distance(bundle, source, np.arange(count))
    assert isinstance(bundle.model, VisionTransformer)
    expected = mean_attention_distance(bundle.model, images_of(source, np.arange(count)))
    assert found is not None
    assert (found.num_pictures, found.even) == (count, expected.even)
    np.testing.assert_allclose(found.pixels, expected.pixels.numpy(), rtol=1e-6)
    assert "class token" in found.definition


def test_no_more_pictures_are_measured_than_in_the_paper() -> None:
    found = measure_distance(bundle_of(replace(CONFIG, depth=1)), pictures(300), np.arange(300))
    assert found is not None
    assert found.num_pictures == NUM_MEASURED == 128


def test_broken_pictures_are_passed_over() -> None:
    bundle, source = bundle_of(CONFIG), pictures(40, HalfBroken)
    assert list(look_at(bundle, source, np.arange(40))) == list(range(0, 40, 2))
    found, whole = (
        measure_distance(bundle, a_source, rows)
        for a_source, rows in ((source, np.arange(40)), (pictures(40), np.arange(0, 40, 2)))
    )
    assert found is not None
    assert whole is not None
    assert found.num_pictures == 20
    np.testing.assert_allclose(found.pixels, whole.pixels, rtol=1e-6)
    assert measure_distance(bundle, source, np.array([1, 3])) is None
    assert look_at(bundle, source, np.array([1, 3])) == {}
    assert measure_distance(bundle, source, np.array([], np.int64)) is None


@pytest.mark.parametrize(
    "config",
    [ResNetConfig(image_size=(32, 32), depths=(1, 1), width_factor=0.5, num_classes=2),
     replace(CONFIG, attention="axial", class_token=False, pooling="gap")],
    ids=["resnet", "axial"],
)  # fmt: skip
def test_models_whose_patches_do_not_all_see_each_other_have_none(config: ModelConfig) -> None:
    bundle, source = bundle_of(config), pictures(4)
    assert look_at(bundle, source, np.arange(4)) == {}
    assert measure_distance(bundle, source, np.arange(4)) is None
