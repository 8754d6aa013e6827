"""Models written in timm's layout: timm loads them and computes the same."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import HYBRIDS, VARIANTS
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.mapping import from_native, native_shapes
from vitrail.weights.adapters.timm import ADAPTER, write
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def pictures(config: ViTConfig) -> torch.Tensor:
    return torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


CONFIG = ViTConfig(
    image_size=(32, 48), patch_size=8, num_classes=5, width=32, depth=2, num_heads=4, mlp_size=70, layer_scale_init=0.1
)


def written(config: ViTConfig, folder: Path) -> tuple[VisionTransformer, dict[str, Any]]:
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(3)).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(tensor.numel()))
    labels = tuple(f"kind {index}" for index in range(config.num_classes))
    mean = (0.5,) * config.in_channels
    preprocessing = Preprocessing(config.image_size, "crop", 0.9, "bicubic", mean, mean)
    writing = write(Model(config, preprocessing, labels))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = from_native(model.state_dict(), writing.entries)
    safetensors.torch.save_file(tensors, folder / writing.weights_file)
    for name, content in writing.files.items():
        (folder / name).write_text(json.dumps(content))
    return model, dict(writing.assumed)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "gap"},
        {"pooling": "gap", "class_token": False, "qkv_bias": False, "layer_scale_init": None},
        {"pooling": "avg", "pool_prefix": True},
        {"pooling": "map", "activation": "gelu_tanh"},
        {"pooling": "map", "class_token": False, "num_register_tokens": 2, "in_channels": 1},
        {"num_register_tokens": 2},
        {"num_register_tokens": 2, "position_for_prefix": False},
        {"position_embedding": "none", "activation": "relu"},
        {"position_embedding": "sincos_2d_mae"},
        {"position_embedding": "sincos_2d_big_vision", "pooling": "gap", "class_token": False},
        {"activation": "swiglu", "layer_scale_init": None},
        {"layer_norm_eps": 1e-5},
        {"input_norm": True, "patch_bias": False, "layer_norm_eps": 1e-5, "activation": "quick_gelu"},
        {"input_norm": True, "patch_bias": False, "position_embedding": "sincos_2d_mae", "pooling": "gap"},
        {"distillation_token": True},
        {"distillation_token": True, "position_for_prefix": False},
        {"distillation_token": True, "position_embedding": "sincos_2d_moco"},
        {"num_classes": 0},
    ],
)
def test_what_is_written_loads_in_timm_and_comes_back_bit_by_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    model, assumed = written(config, tmp_path)
    assert not assumed
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = pictures(config)
    with torch.inference_mode():
        assert same(model(images), loaded(images))
    # With the config that the converter keeps beside the files, every tensor comes back.
    checkpoint = open_checkpoint(tmp_path)
    back = {
        entry.native: entry.codec.decode(*(checkpoint.tensors[name] for name in entry.foreign))
        for entry in ADAPTER.entries(config, checkpoint)
    }
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.items())
    # Without it, the answers do, and what decides them.
    bundle = read_checkpoint(checkpoint, tmp_path)
    with torch.inference_mode():
        assert same(bundle.model(images), model(images))
    assert len(bundle.config.labels) == config.num_classes
    assert bundle.config.preprocessing.crop_fraction == 0.9
    assert bundle.config.model.layer_norm_eps == config.layer_norm_eps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding": "learned_2d"}, "position_embedding 'learned_2d'"),
        ({"position_embedding": "relative"}, "position_embedding 'relative'"),
        ({"position_placement": "every_layer"}, "position_placement 'every_layer'"),
        ({"pre_logits_size": 8}, "pre_logits_size 8"),
        ({"block_style": "post_norm"}, "block_style"),
        ({"pooling": "token_and_gap"}, "token_and_gap"),
        ({"head_dim": 16}, "head_dim 16"),
        ({"patch_norm": True}, "patch_norm"),
        ({"patch_bias": False}, "patch_bias False with input_norm False"),
        ({"input_norm": True}, "patch_bias True with input_norm True"),
        ({"pooling": "map", "activation": "swiglu"}, "gated"),
        ({"distillation_token": True, "num_register_tokens": 1}, "num_register_tokens 1"),
    ],
)
def test_what_timm_does_not_compute_is_not_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        write(Model(replace(CONFIG, **changes), Preprocessing(), ()))


def test_an_epsilon_that_timm_has_no_name_for_is_said_to_be_assumed() -> None:
    assert write(Model(replace(CONFIG, layer_norm_eps=1e-12), Preprocessing(), ())).assumed == {"layer_norm_eps": 1e-6}


AXIAL = [name for name, variant in VARIANTS.items() if variant.config.attention == "axial"]


@pytest.mark.parametrize("name", AXIAL)
def test_what_timm_does_not_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(WeightsError, match="timm has no attention 'axial'"):
        write(Model(VARIANTS[name].config, Preprocessing(), ()))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (*HYBRIDS, *AXIAL)])
def test_every_variant_is_a_model_of_timm(name: str) -> None:
    writing = write(Model(VARIANTS[name].config, Preprocessing(), ()))
    hub = writing.files["config.json"]
    # Two blocks tell what all of them are.
    assert hub["model_args"].pop("depth") == VARIANTS[name].config.depth
    with torch.device("meta"):
        model = timm.create_model(hub["architecture"], **hub["model_args"], depth=2, num_classes=hub["num_classes"])
    shapes = native_shapes(replace(VARIANTS[name].config, depth=2))
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == dict(shapes)
    assert model.blocks[0].attn.num_heads == VARIANTS[name].config.num_heads


CHOICES: dict[str, list[Any]] = {
    "image_size": [(16, 16), (16, 24)],
    "in_channels": [1, 3],
    "num_classes": [0, 3],
    "mlp_size": [16, 37],
    "pooling": ["token", "gap", "avg", "map", "token_and_gap"],
    "pool_prefix": [False, True],
    "class_token": [True, False],
    "num_register_tokens": [0, 2],
    "distillation_token": [False, True],
    "position_embedding": ["none", "learned_1d", "learned_2d", "sincos_2d_mae", "sincos_2d_moco"],
    "position_for_prefix": [True, False],
    "activation": ["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu"],
    "qkv_bias": [True, False],
    "input_norm": [False, True],
    "layer_norm_eps": [1e-6, 1e-5],
    "layer_scale_init": [None, 0.0, 0.1],
    "pre_logits_size": [None, 6],
}


def said(config: ViTConfig) -> bool:
    """Whether timm's layout can say it; where not, the refusal must name a field."""
    try:
        write(Model(config, Preprocessing(), ()))
    except WeightsError as error:
        if not any(name in str(error) for name in CHOICES):
            raise
        return False
    return True


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()}))
def test_any_model_is_refused_by_a_field_or_computed_alike_by_timm(fields: dict[str, Any]) -> None:
    try:
        config = ViTConfig(patch_size=8, width=16, depth=1, num_heads=2, patch_bias=not fields["input_norm"], **fields)
    except ConfigError:
        return
    with tempfile.TemporaryDirectory() as folder:
        if not said(config):
            return
        model, assumed = written(config, Path(folder))
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        bundle = read_checkpoint(open_checkpoint(Path(folder)), Path(folder))
    with torch.inference_mode():
        theirs = loaded(pictures(config))
        assert assumed or same(model(pictures(config)), theirs)
        assert same(bundle.model(pictures(config)), theirs)
