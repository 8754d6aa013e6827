"""What every layout owes: a name, an honest refusal of what is not its own, nothing lost on the way out and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import VARIANTS
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import ADAPTERS, WRITERS
from vitrail.weights.adapters.base import Model, Writing
from vitrail.weights.adapters.mapping import from_native, native_shapes, to_native
from vitrail.weights.bundle import build_model
from vitrail.weights.checkpoint import Checkpoint, Choices
from vitrail.weights.labels import default_labels
from vitrail.weights.reading import read_checkpoint, recognise

SMALL = ViTConfig(image_size=(8, 8), patch_size=4, num_classes=3, width=16, depth=2, num_heads=2, mlp_size=32)
# Everything a config can be, one at a time: a layout says it exactly or refuses it by name.
OPTIONS = {
    "gap": {"pooling": "gap"},
    "gap without class token": {"pooling": "gap", "class_token": False},
    "axial attention": {"attention": "axial", "pooling": "gap", "class_token": False},
    "avg": {"pooling": "avg"},
    "avg without class token": {"pooling": "avg", "class_token": False},
    "map": {"pooling": "map", "class_token": False},
    "token and gap": {"pooling": "token_and_gap"},
    "mean of all tokens": {"pooling": "gap", "pool_prefix": True},
    "registers": {"num_register_tokens": 3},
    "registers, no class row": {"num_register_tokens": 3, "position_for_prefix": False},
    "distillation": {"distillation_token": True},
    "no positions": {"position_embedding": "none"},
    "learned 2-D": {"position_embedding": "learned_2d"},
    "relative": {"position_embedding": "relative"},
    "sines of MAE": {"position_embedding": "sincos_2d_mae"},
    "sines of MoCo": {"position_embedding": "sincos_2d_moco"},
    "sines of big_vision": {"position_embedding": "sincos_2d_big_vision"},
    "positions in every layer": {"position_placement": "every_layer"},
    "shared positions in every layer": {"position_placement": "every_layer_shared"},
    "no class row": {"position_for_prefix": False},
    "hidden head layer": {"pre_logits_size": 8},
    "hidden head layer as wide": {"pre_logits_size": 16},
    "tanh GELU": {"activation": "gelu_tanh"},
    "ReLU": {"activation": "relu"},
    "SwiGLU": {"activation": "swiglu"},
    "post-norm": {"block_style": "post_norm"},
    "no qkv bias": {"qkv_bias": False},
    "epsilon of transformers": {"layer_norm_eps": 1e-12},
    "epsilon of torch": {"layer_norm_eps": 1e-5},
    "LayerScale": {"layer_scale_init": 1e-5},
    "patch norms": {"patch_norm": True},
    "convolutional stem": {"stem": "conv", "stem_widths": (8,)},
    "root of a ResNet": {"stem": "resnet", "stem_widths": (32,)},
    "hybrid": {"stem": "resnet", "stem_widths": (32,), "stem_blocks": (1,)},
    "hybrid of timm": {"stem": "resnet", "stem_widths": (32,), "stem_blocks": (2,), "stem_numerics": "timm"},
    "wide heads": {"head_dim": 12},
    "rectangle": {"image_size": (8, 12)},
    "one channel": {"in_channels": 1},
    "no head": {"num_classes": 0},
}
# In the messages of a refusal other words may stand for a field.
SAID_AS = {
    "head_dim": ("head_dim", "attention_head_dim"),
    "stem_widths": ("stem",),
    "stem_numerics": ("stem",),
    "class_token": ("class_token", "pooling"),
}


def written(config: ViTConfig, layout: str) -> Writing:
    each = (0.5,) * config.in_channels
    resize = "crop" if config.image_size[0] == config.image_size[1] else "squash"  # a rectangle has no one short side
    preprocessing = Preprocessing(image_size=config.image_size, resize=resize, mean=each, std=each)
    return WRITERS[layout](Model(config, preprocessing, default_labels(config.num_classes)))


def random_tensors(config: ViTConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in native_shapes(config).items()}


def shrunk(config: ViTConfig) -> ViTConfig:
    """The same patches and heads, but narrow, shallow and of few patches."""
    width = 8 * config.num_heads
    size = (2 * config.patch_size, 2 * config.patch_size)
    small = replace(config, image_size=size, width=width, mlp_size=2 * width, depth=min(2, config.depth), num_classes=3)
    return (
        small
        if config.stem == "patch"
        else replace(small, stem_widths=(32,), stem_blocks=(1,) * len(small.stem_blocks))
    )


def written_or_refused(config: ViTConfig, layout: str) -> Writing | None:
    """None: a hybrid that the layout refuses, naming its stem, or axial attention."""
    try:
        return written(config, layout)
    except WeightsError as error:
        reasons = {"stem": config.stem == "resnet", "attention 'axial'": config.attention == "axial"}
        if not any(applies and reason in str(error) for reason, applies in reasons.items()):
            raise
        return None


def require_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("option", list(OPTIONS))
def test_the_shapes_that_layouts_are_checked_against_are_the_models(option: str) -> None:
    config = replace(SMALL, **OPTIONS[option], depth=11)
    state = VisionTransformer(config, initialize=False).state_dict()
    assert list(native_shapes(config).items()) == [(name, tuple(tensor.shape)) for name, tensor in state.items()]


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_an_adapter_says_what_it_is(name: str) -> None:
    adapter = ADAPTERS[name]
    assert adapter.name == name
    assert adapter.title
    assert len(adapter.typical) >= 3
    assert len(set(adapter.typical)) == len(adapter.typical)
    module = sys.modules[f"vitrail.weights.adapters.{name}"]
    assert module.ADAPTER is adapter
    assert len(module.__doc__ or "") > 20, "the file says nothing of the layout it reads"


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_no_adapter_claims_or_explains_what_it_does_not_know(name: str) -> None:
    for container in ("safetensors", "npz", "torch", "paddle"):
        for tensors in ({}, {"encoder.conv1.weight": torch.zeros(8, 3, 3, 3)}, {"w": torch.zeros(())}):
            checkpoint = Checkpoint("somewhere", "vit_base_patch16_224", container, tensors)  # type: ignore[arg-type]
            assert ADAPTERS[name].recognise(checkpoint) is None
    assert ADAPTERS[name].unused("some.unknown.layer.weight") is None


def test_a_file_of_no_family_is_refused_with_its_names_and_the_two_nearest() -> None:
    tensors = {"layer1.0.conv1.weight": torch.zeros(8, 3, 3, 3), "cls_token": torch.zeros(8)}
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight.*nearest: (\w+) .* and (\w+) ") as caught:
        recognise(Checkpoint("somewhere", "model", "safetensors", tensors))
    nearest = str(caught.value).partition("nearest: ")[2]
    assert sum(name in nearest for name in ADAPTERS) >= 2


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_a_file_that_is_almost_of_a_family_is_told_so_or_refused_by_it(name: str) -> None:
    """Its typical names under a prefix that nobody writes, and nothing of the right shape."""
    typical = [f"strange_thing.{typical.format(0)}" for typical in ADAPTERS[name].typical]
    checkpoint = Checkpoint("somewhere", "model", "safetensors", {known: torch.zeros(7) for known in typical})
    with pytest.raises(WeightsError, match="somewhere"):
        read_checkpoint(checkpoint, Path("somewhere"))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_is_said_in_every_layout(variant: str) -> None:
    config = VARIANTS[variant].config
    shapes = native_shapes(config)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    for layout in WRITERS:
        writing = written_or_refused(config, layout)
        if writing is None:
            continue
        assert [entry.native for entry in writing.entries] != []
        assert set(native_shapes(config)) <= {entry.native for entry in writing.entries}
        names = [name for entry in writing.entries for name in entry.foreign]
        assert len(set(names)) == len(names), layout
        foreign = from_native(state, writing.entries)
        assert set(foreign) == set(names)
        total = sum(tensor.numel() for tensor in foreign.values())
        assert total == sum(tensor.numel() for tensor in state.values()), layout
        back = to_native(foreign, writing.entries, layout)
        assert {name: tuple(tensor.shape) for name, tensor in back.items()} == dict(shapes), layout


@pytest.mark.parametrize("layout", list(WRITERS))
def test_no_bit_of_any_variant_is_lost_in_a_layout(layout: str) -> None:
    for config in {shrunk(variant.config) for variant in VARIANTS.values()}:
        writing = written_or_refused(config, layout)
        if writing is not None:
            state = random_tensors(config)
            require_same(to_native(from_native(state, writing.entries), writing.entries, layout), state)


@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize("layout", list(WRITERS))
def test_a_layout_says_an_option_exactly_or_refuses_it_by_name(layout: str, option: str) -> None:
    config = replace(SMALL, **OPTIONS[option])
    writing, refusal = None, ""
    try:
        writing = written(config, layout)
    except WeightsError as error:
        refusal = str(error)
    if writing is None:
        words = [word for field in OPTIONS[option] for word in SAID_AS.get(field, (field,))]
        assert any(word in refusal for word in words), refusal
        return
    state = random_tensors(config)
    foreign = from_native(state, writing.entries)
    back = to_native(foreign, writing.entries, layout)
    require_same(back, {name: state[name] for name in back})
    assert set(back) == set(state), "tensors that the layout has no place for must be refused"
    # And read as anyone's file is: recognised, described and mapped, with nothing left over.
    container = "npz" if writing.weights_file.endswith(".npz") else "safetensors"
    choices = Choices(num_heads=config.num_heads, image_size=config.image_size)  # where shapes cannot tell
    checkpoint = Checkpoint("written", "model", container, foreign, files=writing.files, choices=choices)
    read = read_checkpoint(checkpoint, Path("written"))
    expected = replace(config, **writing.assumed)
    assert read.config.labels == default_labels(config.num_classes)
    # Another word for the same thing is fine (a fixed table written down, a head that also sees zeros times the mean);
    # what pictures as small as these may not show is not.
    for field in ("layer_norm_eps", "activation", "num_heads", "image_size", "num_classes"):
        assert getattr(read.config.model, field) == getattr(expected, field), field
    pictures = torch.rand(2, config.in_channels, *config.image_size)
    model = build_model(expected, state, "expected")
    with torch.inference_mode():
        torch.testing.assert_close(read.model(pictures), model(pictures), atol=1e-6, rtol=1e-6)
