"""Hybrids out of and into Google's npz files and timm's layout, against timm's own models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import get_config
from vitrail.weights.adapters import google, timm_writing
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.mapping import from_native, native_shapes
from vitrail.weights.bundle import build_model
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.labels import default_labels
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

# timm's names of the ResNets: the stages of each, and a Transformer small enough for a test behind it.
NAMES = {
    "vit_tiny_r_s16_p8_224": 8,
    "vit_small_r26_s32_224": 1,
    "vit_base_r50_s16_224": 1,
    "vit_large_r50_s32_224": 1,
}
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5, "img_size": 64}
# The smallest hybrid: its ResNet is half as wide as any that timm knows.
TINY = ViTConfig(
    image_size=(16, 16), patch_size=8, num_classes=3, width=16, depth=1, num_heads=2, mlp_size=32,
    activation="gelu_tanh", stem="resnet", stem_widths=(32,), stem_blocks=(1, 2),
)  # fmt: skip


def small(name: str, numerics: str = "timm") -> ViTConfig:
    return replace(
        get_config(name), image_size=(64, 64), width=16, depth=2, num_heads=2, mlp_size=64, num_classes=5,
        stem_numerics=numerics,
    )  # fmt: skip


def random_state(config: ViTConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in native_shapes(config).items()}


def require_close(found: Tensor, expected: Tensor) -> None:
    assert bool(expected.isfinite().all())
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def save_npz(config: ViTConfig, state: dict[str, Tensor], path: Path, *, four_axes: bool = False) -> None:
    writing = google.write(Model(config, Preprocessing(config.image_size), default_labels(config.num_classes)))
    arrays = {name: tensor.numpy() for name, tensor in from_native(state, writing.entries).items()}
    if four_axes:  # as the files of the first paper
        arrays = {name: value.reshape(1, 1, 1, -1) if "gn" in name else value for name, value in arrays.items()}
    np.savez(path, **arrays)


@pytest.mark.parametrize("name", list(NAMES))
def test_an_npz_written_here_answers_the_same_in_timms_reader(name: str, tmp_path: Path) -> None:
    config = replace(small(name), activation="gelu_tanh")
    state = random_state(config)
    save_npz(config, state, tmp_path / "model.npz")
    theirs = timm.create_model(name, **SMALL, patch_size=NAMES[name], act_layer="gelu_tanh").eval()
    theirs.load_pretrained(str(tmp_path / "model.npz"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        require_close(build_model(config, state, "ours")(images), theirs(images))


@pytest.mark.parametrize("four_axes", [False, True])
@pytest.mark.parametrize("stages", [(), (1, 2)])
def test_an_npz_is_read_as_it_was_written(stages: tuple[int, ...], four_axes: bool, tmp_path: Path) -> None:
    config = replace(TINY, stem_blocks=stages)
    state = random_state(config)
    save_npz(config, state, tmp_path / "hybrid.npz", four_axes=four_axes)
    read = read_checkpoint(open_checkpoint(tmp_path / "hybrid.npz"), tmp_path / "hybrid.npz")
    assert read.config.model == config
    for key, tensor in read.model.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("block1/", "block1/unit1/... is missing"),
        ("block2/unit1/", "block2/unit1/... is missing"),
        ("conv_root/", "conv_root/kernel' is missing"),
        ("gn_root/scale", "gn_root/scale"),
    ],
)
def test_a_damaged_resnet_is_refused_by_the_tensor_that_it_lacks(gone: str, message: str, tmp_path: Path) -> None:
    save_npz(TINY, random_state(TINY), tmp_path / "hybrid.npz")
    with np.load(tmp_path / "hybrid.npz") as arrays:
        np.savez(tmp_path / "damaged.npz", **{name: arrays[name] for name in arrays if not name.startswith(gone)})
    with pytest.raises(WeightsError, match=message.replace("...", r"\.\.\.'?").replace("'? is", "' is")):
        read_checkpoint(open_checkpoint(tmp_path / "damaged.npz"), tmp_path / "damaged.npz")


def test_the_number_of_a_stage_is_not_counted_up_to(tmp_path: Path) -> None:
    save_npz(TINY, random_state(TINY), tmp_path / "hybrid.npz")
    with np.load(tmp_path / "hybrid.npz") as arrays:
        far = {f"block{'9' * digits}/unit1/conv1/kernel": np.zeros(1, np.float32) for digits in (12, 5000)}
        np.savez(tmp_path / "far.npz", **dict(arrays), **far)
    with pytest.raises(WeightsError, match="block999999999"):
        read_checkpoint(open_checkpoint(tmp_path / "far.npz"), tmp_path / "far.npz")


def test_the_npz_layout_says_that_it_computes_with_googles_small_numbers() -> None:
    model = Model(replace(TINY, stem_numerics="timm"), Preprocessing((16, 16)), default_labels(3))
    assert google.write(model).assumed == {"stem_numerics": "google"}
    assert google.write(replace(model, config=TINY)).assumed == {}


@pytest.mark.parametrize("name", list(NAMES))
def test_timms_state_dict_is_read_and_answers_the_same(name: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name, **SMALL, patch_size=NAMES[name]).eval()
    state = random_state(small(name))
    theirs.load_state_dict(state)  # strictly: the names are timm's
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    read = read_checkpoint(
        open_checkpoint(tmp_path / "weights.safetensors", Choices(num_heads=2)), tmp_path / "weights.safetensors"
    )
    assert read.config.model == small(name)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        require_close(read.model(images), theirs(images))


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"])
def test_a_hybrid_in_timms_layout_is_built_by_timm_by_name_and_read_again(name: str, tmp_path: Path) -> None:
    config = replace(small(name), activation="gelu_tanh")
    state = random_state(config)
    writing = timm_writing.write(Model(config, Preprocessing((64, 64)), default_labels(5)))
    assert writing.assumed == {}
    safetensors.torch.save_file(from_native(state, writing.entries), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(writing.files["config.json"]))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert writing.files["config.json"]["architecture"] == name
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    read = read_checkpoint(open_checkpoint(tmp_path), tmp_path)
    assert read.config.model == config
    with torch.inference_mode():
        require_close(read.model(images), theirs(images))


def test_timms_layout_says_its_small_numbers_and_refuses_resnets_that_timm_has_no_name_for() -> None:
    labels = default_labels(5)
    google_like = Model(small("vit_small_r26_s32_224", "google"), Preprocessing((64, 64)), labels)
    assert timm_writing.write(google_like).assumed == {"stem_numerics": "timm"}
    for change in ({"stem_blocks": (1, 1, 1, 1)}, {"stem_widths": (32,)}):
        with pytest.raises(WeightsError, match="timm has no hybrid whose stem"):
            timm_writing.write(replace(google_like, config=replace(google_like.config, **change)))


def test_a_real_hybrid_is_timms_number_for_number() -> None:
    config = get_config("vit_small_r26_s32_224")
    theirs = timm.create_model("vit_small_r26_s32_224").eval()
    ours = build_model(config, dict(theirs.state_dict()), "timm")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        require_close(ours.forward_features(images), theirs.forward_features(images))
