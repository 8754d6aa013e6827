"""Hugging Face DINOv2, with and without registers, against transformers itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import huggingface_dinov2
from vitrail.weights.adapters.mapping import to_native
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint
from vitrail.weights.writing import write_layout

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {0: "cat", 1: "dog", 2: "elk"},
    "label2id": {"cat": 0, "dog": 1, "elk": 2},
}
LABELS = ("cat", "dog", "elk")
NATIVE = ViTConfig(
    image_size=(16, 16),
    patch_size=8,
    num_classes=3,
    width=32,
    depth=2,
    num_heads=4,
    mlp_size=64,
    layer_scale_init=0.5,
    pooling="token_and_gap",
)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


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


def native_bundle(config: ViTConfig, labels: tuple[str, ...] = LABELS) -> Bundle:
    model = scatter(VisionTransformer(config, generator=torch.Generator().manual_seed(0)))
    preprocessing = Preprocessing(config.image_size, "squash")
    return Bundle(model, BundleConfig(model=config, labels=labels, preprocessing=preprocessing), Path("made"))


@pytest.mark.parametrize("changes", [{}, {"use_swiglu_ffn": True}, {"qkv_bias": False}], ids=["", "gated", "no-bias"])
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@torch.inference_mode()
def test_what_transformers_saves_answers_the_same_here(
    kind: str, changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    config = getattr(transformers, f"{kind}Config")(**TINY, **changes)
    peer = scatter(getattr(transformers, f"{kind}ForImageClassification")(config))
    peer.save_pretrained(tmp_path / "file")
    peer.save_pretrained(tmp_path / "memory", save_original_format=False)

    bundle, again = read(tmp_path / "file"), read(tmp_path / "memory")

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model(images), peer(images).logits)
    assert torch.equal(again.model(images), bundle.model(images))
    assert bundle.config.labels == LABELS
    assert bundle.config.model.num_register_tokens == (4 if kind == "Dinov2WithRegisters" else 0)
    assert bundle.certificate is not None
    assert [tensor.reason for tensor in bundle.certificate.unused] == ["the mask token of the pre-training"]


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@torch.inference_mode()
def test_a_bare_encoder_gives_the_same_tokens(kind: str, transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY)))
    peer.save_pretrained(tmp_path)
    bundle = read(tmp_path)
    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model.forward_features(images), peer(images).last_hidden_state)
    assert_same_answers(bundle.model(images), peer(images).pooler_output)
    assert bundle.config.model.num_classes == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_register_tokens": 3},
        {"activation": "swiglu", "mlp_size": 48},
        {"pooling": "token"},  # the head's other half is zero
        {"layer_scale_init": None},  # its factors are one
        {"layer_scale_init": None, "num_register_tokens": 2, "pooling": "token", "position_for_prefix": False},
        {"activation": "gelu_tanh", "qkv_bias": False, "in_channels": 1, "layer_norm_eps": 1e-5},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@torch.inference_mode()
def test_what_is_written_loads_in_transformers_whole_and_answers_the_same(
    changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    bundle = native_bundle(replace(NATIVE, **changes))
    write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "written", output_loading_info=True
    )

    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).logits, bundle.model(images))
    # And without our own notes beside the files.
    (tmp_path / "written" / "vitrail.json").unlink()
    assert_same_answers(read(tmp_path / "written").model(images), bundle.model(images))


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2}], ids=["plain", "registers"])
@torch.inference_mode()
def test_an_encoder_without_a_head_is_written_as_one(
    changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    bundle = native_bundle(replace(NATIVE, num_classes=0, pooling="token", **changes), ())
    write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.AutoModel.from_pretrained(tmp_path / "written", output_loading_info=True)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).last_hidden_state, bundle.model.forward_features(images))


@pytest.mark.parametrize(
    "changes", [{}, {"num_register_tokens": 3}, {"activation": "swiglu", "mlp_size": 48, "stochastic_depth_rate": 0.2}]
)
def test_the_files_alone_read_back_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, **changes))
    write_layout(bundle, "huggingface", tmp_path / "written")
    (tmp_path / "written" / "vitrail.json").unlink()

    again = read(tmp_path / "written")

    assert again.config.model == bundle.config.model
    tensors = again.model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in bundle.model.state_dict().items())


@torch.inference_mode()
def test_a_real_size_answers_the_same(transformers: ModuleType, tmp_path: Path) -> None:
    config = replace(get_config("ViT-Ti/14@224"), num_classes=3, layer_scale_init=1e-5, num_register_tokens=4)
    bundle = native_bundle(config)
    write_layout(bundle, "huggingface", tmp_path / "written")
    peer = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "written")
    images = pictures(config)
    assert_same_answers(peer(images).logits, bundle.model(images))


@pytest.mark.parametrize("part", ["layer_scale1.lambda1", "classifier.weight"])
def test_factors_and_halves_that_a_model_has_no_place_for_are_not_dropped(part: str, tmp_path: Path) -> None:
    """vitrail.json says a model without LayerScale whose head reads the class token; the weights say otherwise."""
    bundle = native_bundle(replace(NATIVE, layer_scale_init=None, pooling="token", num_register_tokens=2))
    write_layout(bundle, "huggingface", tmp_path / "written")
    file = tmp_path / "written" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(part))
    tensors[name][..., -1] += 1
    save_file(tensors, file)
    checkpoint = open_checkpoint(tmp_path / "written")
    with pytest.raises(WeightsError, match="and the model"):
        to_native(checkpoint.tensors, huggingface_dinov2.entries(bundle.config.model, checkpoint), checkpoint.where)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mlp_ratio", 4, "mlp_ratio 4, so 128 hidden features of the MLP, the tensors have 64;"),
        ("use_swiglu_ffn", True, "use_swiglu_ffn True, the tensors have False;"),
        ("num_register_tokens", 4, "num_register_tokens 4, the tensors have 0;"),
        ("num_hidden_layers", 12, "num_hidden_layers 12, the tensors have 2;"),
    ],
)
def test_a_config_that_contradicts_the_tensors_stops_with_both_values(
    field: str, value: object, message: str, transformers: ModuleType, tmp_path: Path
) -> None:
    transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**TINY)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(WeightsError, match=message):
        read(tmp_path)


def test_a_bare_file_has_heads_of_64_features_and_the_epsilon_of_the_family(
    transformers: ModuleType, tmp_path: Path
) -> None:
    config = transformers.Dinov2Config(**{**TINY, "hidden_size": 128, "num_attention_heads": 2})
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()

    bundle = read(tmp_path)

    assert (bundle.config.model.num_heads, bundle.config.model.layer_norm_eps) == (2, 1e-6)
    assert bundle.certificate is not None
    sources = {setting.name: setting.source for setting in bundle.certificate.settings}
    assert sources["num_heads"] == "the family's rule, heads of 64 features"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_size": 40}, "mlp_size 40 of width 32"),
        ({"image_size": (16, 24)}, "image_size 16x24"),
        ({"num_classes": 0}, "pooling 'token_and_gap' without a head"),
    ],
)
def test_a_model_that_transformers_cannot_say_is_refused_by_field(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = replace(NATIVE, **changes)
    with pytest.raises(WeightsError, match=message):
        write_layout(native_bundle(config, LABELS[: config.num_classes]), "huggingface", tmp_path / "written")
