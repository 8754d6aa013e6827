"""torchvision's layout against torchvision itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import torchvision as adapter
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.checkpoint import Checkpoint, Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint
from vitrail.weights.writing import write_layout

TINY = {
    "image_size": 16,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 48,
    "num_classes": 3,
}
LABELS = ("cat", "dog", "elk")
NATIVE = ViTConfig(image_size=(16, 16), patch_size=8, num_classes=3, width=32, depth=2, num_heads=4, mlp_size=48)


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    return pytest.importorskip("torchvision.models.vision_transformer")


def scatter(model: Any) -> Any:
    """Every parameter away from the zeros and ones of its initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def read(path: Path, **choices: Any) -> Bundle:
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


def pictures(config: ViTConfig) -> torch.Tensor:
    return torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(3))


def assert_same_answers(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def native_bundle(config: ViTConfig) -> Bundle:
    model = scatter(VisionTransformer(config, generator=torch.Generator().manual_seed(0)))
    preprocessing = Preprocessing(config.image_size)
    return Bundle(model, BundleConfig(model=config, labels=LABELS, preprocessing=preprocessing), Path("made"))


@pytest.mark.parametrize("hidden", [None, 24], ids=["plain", "pre_logits"])
@torch.inference_mode()
def test_what_torchvision_saves_answers_the_same_here(hidden: int | None, peers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(peers.VisionTransformer(**TINY, representation_size=hidden))
    torch.save(peer.state_dict(), tmp_path / "vit.pth")

    bundle = read(tmp_path / "vit.pth", num_heads=4)

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model(images), peer(images))
    assert bundle.config.model == replace(NATIVE, pre_logits_size=hidden)


@torch.inference_mode()
def test_the_old_names_and_a_training_checkpoint_give_the_same_tensors(peers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(peers.VisionTransformer(**TINY))
    tensors = peer.state_dict()
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): t for name, t in tensors.items()}
    assert old.keys() != tensors.keys()
    state = torch.optim.AdamW(peer.parameters()).state_dict()
    training = {"model": old, "optimizer": state, "epoch": 3, "model_ema": {"n_averaged": torch.tensor(1)}}
    for name, content in (("new", tensors), ("old", old), ("training", training)):
        torch.save(content, tmp_path / f"{name}.pth")

    bundles = {name: read(tmp_path / f"{name}.pth", num_heads=4) for name in ("new", "old", "training")}

    expected = bundles["new"].model.state_dict()
    for name in ("old", "training"):
        found = bundles[name].model.state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    certificate = bundles["training"].certificate
    assert certificate is not None
    assert {tensor.reason for tensor in certificate.unused} == {"the running average of the weights"}


@pytest.mark.parametrize("hidden", [None, 24], ids=["plain", "pre_logits"])
@pytest.mark.parametrize("position_for_prefix", [True, False], ids=["row", "no_row"])
@torch.inference_mode()
def test_what_is_written_loads_in_torchvision_and_answers_the_same(
    hidden: int | None, position_for_prefix: bool, peers: ModuleType, tmp_path: Path
) -> None:
    bundle = native_bundle(replace(NATIVE, pre_logits_size=hidden, position_for_prefix=position_for_prefix))
    written = write_layout(bundle, "torchvision", tmp_path / "written")

    # The line that users are given.
    import safetensors.torch
    import torchvision

    names = {"torchvision": torchvision, "safetensors": safetensors}
    exec(written.how_to_load, names)
    peer: Any = names["model"]

    images = pictures(bundle.config.model)
    assert_same_answers(peer.eval()(images), bundle.model(images))


@torch.inference_mode()
def test_a_real_size_needs_no_choice_and_answers_the_same(peers: ModuleType, tmp_path: Path) -> None:
    config = replace(get_config("ViT-Ti/16"), num_classes=3)
    bundle = native_bundle(config)
    write_layout(bundle, "torchvision", tmp_path / "written")
    (tmp_path / "written" / "vitrail.json").unlink()
    peer = peers.VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=3
    )
    peer.load_state_dict(load_file(tmp_path / "written" / "model.safetensors"))

    again = read(tmp_path / "written")

    images = pictures(config)
    expected = bundle.model(images)
    assert_same_answers(peer.eval()(images), expected)
    assert torch.equal(again.model(images), expected)
    assert again.config.model == config


def test_what_torchvision_computes_otherwise_is_measured(tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, activation="gelu_tanh", layer_norm_eps=1e-2))
    written = write_layout(bundle, "torchvision", tmp_path / "written")
    (check,) = [check for check in written.checks if "layer_norm_eps 1e-06 in place of 0.01" in check.against]
    assert "activation gelu in place of gelu_tanh" in check.against
    assert check.largest_difference > 1e-4


@pytest.mark.parametrize(
    ("name", "resized", "interpolation"),
    [
        ("ViT-B/16", 256, "bilinear"),
        ("ViT-B/32", 256, "bilinear"),
        ("ViT-L/16", 242, "bilinear"),
        ("ViT-L/32", 256, "bilinear"),
        ("ViT-H/14", 224, "bicubic"),
        ("ViT-B/16@384", 384, "bicubic"),
        ("ViT-L/16@512", 512, "bicubic"),
        ("ViT-H/14@518", 518, "bicubic"),
    ],
)
def test_released_weights_are_prepared_as_torchvision_does(
    name: str, resized: int, interpolation: str, peers: ModuleType
) -> None:
    """The shapes tell; the expected numbers are those of torchvision's weight enumerations."""
    config = get_config(name)
    with torch.device("meta"):
        peer = peers.VisionTransformer(
            config.image_size[0], config.patch_size, config.depth, config.num_heads, config.width, config.mlp_size
        )
    checkpoint = Checkpoint("file", "file", "torch", peer.state_dict())

    description = adapter.describe(checkpoint)

    assert description.config == config
    preprocessing = description.preprocessing
    assert int(config.image_size[0] / preprocessing.crop_fraction) == resized
    assert preprocessing.interpolation == interpolation
    size = name.removeprefix("ViT-").split("@")[0].replace("/", "_")
    published = getattr(peers, f"ViT_{size}_Weights")
    presets = [
        weights.transforms() for weights in published if weights.transforms().crop_size == [config.image_size[0]]
    ]
    assert any((p.resize_size, p.interpolation.value) == ([resized], interpolation) for p in presets)
    assert tuple(presets[0].mean) == preprocessing.mean
    assert tuple(presets[0].std) == preprocessing.std


def test_heads_that_the_shape_does_not_tell_are_asked_for(peers: ModuleType, tmp_path: Path) -> None:
    torch.save(peers.VisionTransformer(**TINY).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="width 32, 2 blocks and MLPs of 48 has: give --num-heads"):
        read(tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"labels \(the caller\) for a head of 3 classes"):
        read(tmp_path / "vit.pth", num_heads=4, labels=("a", "b"))
    with pytest.raises(WeightsError, match="5 rows, which is not 1 and those of 24x16 pixels"):
        read(tmp_path / "vit.pth", num_heads=4, image_size=(24, 16))


def test_a_convolutional_stem_is_refused(peers: ModuleType, tmp_path: Path) -> None:
    stem = [peers.ConvStemConfig(4, 3, 2), peers.ConvStemConfig(8, 3, 2), peers.ConvStemConfig(8, 3, 2)]
    torch.save(peers.VisionTransformer(**TINY, conv_stem_configs=stem).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"conv_bn_relu_0.* is of a convolutional stem"):
        read(tmp_path / "vit.pth", num_heads=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "gap"},
        {"distillation_token": True},
        {"num_register_tokens": 2},
        {"layer_scale_init": 0.1},
        {"position_embedding": "none"},
        {"qkv_bias": False},
        {"in_channels": 1},
        {"activation": "relu"},
        {"head_dim": 4},
        {"image_size": (16, 24)},
        {"patch_norm": True},
        {"patch_bias": False},
        {"input_norm": True},
        {"activation": "quick_gelu"},
    ],
    ids="-".join,
)
def test_a_model_that_torchvision_cannot_say_is_refused_by_field(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=next(iter(changes))):
        write_layout(native_bundle(replace(NATIVE, **changes)), "torchvision", tmp_path / "written")
