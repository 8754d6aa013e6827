"""Hugging Face DeiT against transformers itself: one head, two heads, none."""

from __future__ import annotations

import json
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
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint
from vitrail.weights.writing import write_layout

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {0: "cat", 1: "dog", 2: "elk"},
    "label2id": {"cat": 0, "dog": 1, "elk": 2},
}
LABELS = ("cat", "dog", "elk")
NATIVE = ViTConfig(
    image_size=(16, 16), patch_size=8, num_classes=3, width=32, depth=2, num_heads=4, mlp_size=48, layer_norm_eps=1e-6
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


@pytest.mark.parametrize("kind", ["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"])
@torch.inference_mode()
def test_what_transformers_saves_answers_the_same_here(kind: str, transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(getattr(transformers, kind)(transformers.DeiTConfig(**TINY)))
    peer.save_pretrained(tmp_path / "file")
    peer.save_pretrained(tmp_path / "memory", save_original_format=False)

    bundle, again = read(tmp_path / "file"), read(tmp_path / "memory")

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model(images), peer(images).logits)
    assert torch.equal(again.model(images), bundle.model(images))
    assert bundle.config.labels == LABELS
    assert bundle.config.model.layer_norm_eps == 1e-12
    assert bundle.config.preprocessing.mean == (0.485, 0.456, 0.406)
    assert bundle.config.preprocessing.crop_fraction == 0.875


@torch.inference_mode()
def test_one_head_is_not_the_mean_of_two(transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY)))
    peer.save_pretrained(tmp_path)

    bundle = read(tmp_path)

    config = bundle.config.model
    assert (config.distillation_token, config.num_register_tokens) == (False, 1)
    assert bundle.certificate is not None
    assert any("kept as a register" in sentence for sentence in bundle.certificate.surgery)
    token, table = peer.deit.embeddings.distillation_token, peer.deit.embeddings.position_embeddings
    assert torch.equal(bundle.model.state_dict()["reg_token"], token + table[:, 1:2])


@torch.inference_mode()
def test_a_bare_encoder_keeps_its_distillation_token(transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(transformers.DeiTModel(transformers.DeiTConfig(**TINY)))
    peer.save_pretrained(tmp_path)

    bundle = read(tmp_path)

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model.forward_features(images), peer(images).last_hidden_state)
    assert bundle.config.model.distillation_token
    assert bundle.certificate is not None
    assert {tensor.name for tensor in bundle.certificate.unused} == {"pooler.dense.weight", "pooler.dense.bias"}


@torch.inference_mode()
def test_a_pretraining_model_is_read_without_its_decoder(transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(transformers.DeiTForMaskedImageModeling(transformers.DeiTConfig(**TINY)))
    peer.save_pretrained(tmp_path)
    bundle = read(tmp_path)
    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model.forward_features(images), peer.deit(images).last_hidden_state)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"distillation_token": True}, "DeiTForImageClassificationWithTeacher"),
        ({"distillation_token": True, "position_for_prefix": False}, "DeiTForImageClassificationWithTeacher"),
        ({"num_register_tokens": 1}, "DeiTForImageClassification"),
        ({"num_register_tokens": 1, "position_for_prefix": False}, "DeiTForImageClassification"),
    ],
)
@torch.inference_mode()
def test_what_is_written_loads_in_transformers_whole_and_answers_the_same(
    changes: dict[str, Any], kind: str, transformers: ModuleType, tmp_path: Path
) -> None:
    bundle = native_bundle(replace(NATIVE, **changes))
    write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "written", output_loading_info=True
    )

    assert type(peer).__name__ == kind
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).logits, bundle.model(images))


@torch.inference_mode()
def test_a_distilled_encoder_without_heads_is_written_as_one(transformers: ModuleType, tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, distillation_token=True, num_classes=0), ())
    write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.DeiTModel.from_pretrained(
        tmp_path / "written", add_pooling_layer=False, output_loading_info=True
    )

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).last_hidden_state, bundle.model.forward_features(images))


@pytest.mark.parametrize("changes", [{"distillation_token": True}, {"num_register_tokens": 1}], ids=["two", "one"])
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
    bundle = native_bundle(replace(get_config("ViT-Ti/16"), num_classes=3, distillation_token=True))
    write_layout(bundle, "huggingface", tmp_path / "written")
    peer = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "written")
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).logits, bundle.model(images))


def test_a_pickled_file_without_config_is_known_by_its_keys(transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**TINY)))
    peer.save_pretrained(tmp_path / "peer")
    torch.save(load_file(tmp_path / "peer" / "model.safetensors"), tmp_path / "pytorch_model.bin")

    bundle = read(tmp_path / "pytorch_model.bin", num_heads=4)

    assert bundle.certificate is not None
    assert bundle.certificate.family == "Hugging Face DeiT"
    assert bundle.config.model == read(tmp_path / "peer").config.model


def test_a_table_with_a_row_too_few_stops(transformers: ModuleType, tmp_path: Path) -> None:
    peer = transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY))
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_size": 24}))
    with pytest.raises(WeightsError, match=r"image_size 24x24, so 11 positions .* the tensors have 6;"):
        read(tmp_path)


def test_a_distilled_model_with_layer_scale_is_refused_by_field(tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, distillation_token=True, layer_scale_init=0.1))
    with pytest.raises(WeightsError, match=r"layer_scale_init 0\.1 beside a distillation_token"):
        write_layout(bundle, "huggingface", tmp_path / "written")
