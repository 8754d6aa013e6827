"""BiT's npz files and timm's resnetv2_*_bit, in; made here with the names and shapes that are published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

import vitrail
from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import get_resnet_config
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.labels import default_labels
from vitrail.weights.writing import write_layout

CONFIG = ResNetConfig(image_size=(480, 480), depths=(1, 2), width_factor=0.5, num_classes=3)


def filled(config: ResNetConfig) -> ResNet:
    generator = torch.Generator().manual_seed(0)
    model = ResNet(config, generator=generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def in_npz(model: ResNet, number: str = "") -> dict[str, npt.NDArray[np.float32]]:
    """The model's numbers under BiT's names, spelled out here by hand once more."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stages":
            stage, unit, layer = int(parts[1]) + 1, int(parts[3]) + 1, parts[4]
            place = f"resnet/block{stage}/unit{unit:02d}/"
            place += "a/proj/" if layer == "downsample" else "abc"[int(layer[-1]) - 1] + "/"
            kind = "group_norm" if layer.startswith("norm") else "standardized_conv2d"
        else:
            place = {"stem": "resnet/root_block/", "norm": "resnet/", "head": "resnet/head/"}[parts[0]]
            kind = {"stem": "standardized_conv2d", "norm": "group_norm", "head": "conv2d"}[parts[0]]
        last = {"weight": "kernel", "bias": "bias"}[parts[-1]]
        if kind == "group_norm":
            last = {"kernel": "gamma", "bias": "beta"}[last]
        array = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor
        arrays[f"{place}{kind}{number if kind != 'conv2d' else ''}/{last}"] = array.numpy().copy()
    return arrays


@pytest.mark.parametrize("number", ["", "_17"])
def test_an_npz_of_bit_gives_the_model_that_was_written(tmp_path: Path, number: str) -> None:
    model = filled(CONFIG)
    np.savez(tmp_path / "BiT-M-R8.npz", **in_npz(model, number))
    bundle = vitrail.load(tmp_path / "BiT-M-R8.npz")
    assert bundle.config.model == CONFIG
    assert bundle.certificate is not None
    assert bundle.certificate.family == "BiT ResNets"
    assert "BiT-R11x0.5 at 480x480" in bundle.certificate.architecture
    preprocessing = bundle.config.preprocessing
    assert (preprocessing.resize, preprocessing.interpolation) == ("squash", "bilinear")
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(bundle.model.state_dict()[name], tensor)


def test_published_shapes_of_r50x1_are_all_taken(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    peer = timm.create_model("resnetv2_50x1_bit", num_classes=7)
    own = ResNet(ResNetConfig(num_classes=7, std_conv_eps=1e-10), initialize=False)
    own.load_state_dict(peer.state_dict())
    np.savez(tmp_path / "r50.npz", **in_npz(own))
    # timm's own reader of these files.
    again = timm.create_model("resnetv2_50x1_bit", num_classes=7)
    again.load_pretrained(str(tmp_path / "r50.npz"))
    bundle = vitrail.load(tmp_path / "r50.npz", image_size=(64, 64))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(bundle.model(images), again.eval()(images), rtol=1e-3, atol=1e-4)


def test_timms_repository_gives_timms_answers(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    peer = timm.create_model("resnetv2_50x1_bit", num_classes=5)
    timm.models.save_for_hf(peer, tmp_path / "hub", safe_serialization=True)
    bundle = vitrail.load(tmp_path / "hub")
    said = json.loads((tmp_path / "hub" / "config.json").read_text())["pretrained_cfg"]
    assert bundle.config.preprocessing.image_size == tuple(said["input_size"][1:])
    assert bundle.config.preprocessing.crop_fraction == said["crop_pct"]
    assert bundle.config.preprocessing.interpolation == said["interpolation"]
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(bundle.model(images), peer.eval()(images), rtol=1e-4, atol=1e-5)


def bundle_of(config: ResNetConfig) -> Bundle:
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(image_size=config.image_size, resize="squash", mean=half, std=half)
    about = BundleConfig(model=config, labels=default_labels(config.num_classes), preprocessing=preprocessing)
    return Bundle(filled(config), about, Path("made up"))


@pytest.mark.parametrize("eps", [1e-10, 1e-8])
def test_an_npz_that_was_written_reads_back_and_its_names_are_bits(tmp_path: Path, eps: float) -> None:
    bundle = bundle_of(replace(CONFIG, image_size=(32, 32), std_conv_eps=eps))
    written = write_layout(bundle, "google", tmp_path / "r11.npz")
    with np.load(tmp_path / "r11.npz") as arrays:
        expected = in_npz(bundle.model)
        assert set(arrays) == set(expected)
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    # What BiT's code computes in place of another epsilon is said, with what it does to the answers.
    assert len(written.checks) == (1 if eps == 1e-10 else 2)
    assert written.checks[0].largest_difference == 0
    assert "bit_pytorch.models.ResNetV2([1, 2], 0.5)" in written.how_to_load


@pytest.mark.parametrize("layout", ["timm", "google"])
def test_timm_loads_what_was_written_and_answers_the_same(tmp_path: Path, layout: str) -> None:
    timm = pytest.importorskip("timm")
    config = replace(get_resnet_config("resnetv2_50x1_bit"), image_size=(32, 32), num_classes=5)
    bundle = bundle_of(config)
    written = write_layout(bundle, layout, tmp_path / "out")
    peer = eval(written.how_to_load, {"timm": timm})  # the line that people are told to run
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = bundle.model(images)
        assert (peer.eval()(images) - expected).abs().max() < 1e-4 * expected.abs().max()
    if layout == "timm":
        again = vitrail.load(tmp_path / "out")
        assert (again.config.model, again.config.labels) == (config, bundle.config.labels)


def test_a_layout_without_the_place_for_it_is_refused_by_name(tmp_path: Path) -> None:
    for config, layout, said in (
        (CONFIG, "timm", r"depths \(1, 2\) and width_factor 0.5"),
        (CONFIG, "huggingface", "has no place for a BiT ResNet; timm, google have"),
        (replace(CONFIG, max_pool_padding="minus_infinity"), "google", "max_pool_padding 'minus_infinity'"),
        (replace(CONFIG, group_norm_eps=1e-3), "google", "group_norm_eps 0.001"),
    ):
        with pytest.raises(WeightsError, match=said):
            write_layout(bundle_of(config), layout, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["num_classes"], 5, {"stem_type": "same"}, {"global_pool": "max"}])
def test_model_args_that_change_the_answers_are_refused(arguments: object, tmp_path: Path) -> None:
    save_file(filled(CONFIG).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_args": arguments}))
    with pytest.raises(WeightsError, match="not among those vitrail computes"):
        vitrail.load(tmp_path)


def test_what_is_missing_or_left_over_is_named(tmp_path: Path) -> None:
    arrays = in_npz(filled(CONFIG))
    without = {name: array for name, array in arrays.items() if "block2/unit02/b/group_norm/beta" not in name}
    np.savez(tmp_path / "a.npz", **without)
    with pytest.raises(WeightsError, match="block2/unit02/b/group_norm/beta"):
        vitrail.load(tmp_path / "a.npz")
    np.savez(
        tmp_path / "b.npz", **{name: array for name, array in arrays.items() if "block1/unit01/a/stand" not in name}
    )
    with pytest.raises(WeightsError, match="stages are numbered 2"):
        vitrail.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **arrays, **{"resnet/block1/unit01/d/kernel": arrays["resnet/head/conv2d/bias"]})
    with pytest.raises(WeightsError, match="block1/unit01/d/kernel"):
        vitrail.load(tmp_path / "c.npz")


def test_a_batch_norm_resnet_is_no_bit(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    names = list(timm.create_model("resnetv2_50").state_dict())
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="of no family"):
        vitrail.load(tmp_path / "x.safetensors")
