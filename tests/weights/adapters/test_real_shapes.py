"""Peers' models at the sizes people use, with random weights: saved by the peer, read here, the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.reading import read_checkpoint


def _read(path: Path) -> Bundle:
    return read_checkpoint(open_checkpoint(path), path)


def _agree(bundle: Bundle, reference: Tensor, images: Tensor) -> bool:
    with torch.inference_mode():
        found = bundle.model(images)
    return float((found - reference).abs().max()) <= 1e-5 * float(reference.abs().max())


def _filled(model: nn.Module) -> nn.Module:
    """Heads start at zero in some libraries: a model that answers with something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_base_patch16_224", "deit_small_distilled_patch16_224"])
def test_of_timm(name: str, images: Tensor, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = _filled(timm.create_model(name))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with torch.inference_mode():
        assert _agree(_read(tmp_path / "model.pth"), model(images), images)


def test_of_torchvision(images: Tensor, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    model = _filled(models.vit_b_16())
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with torch.inference_mode():
        assert _agree(_read(tmp_path / "model.pth"), model(images), images)


def test_of_transformers(images: Tensor, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000, qkv_bias=True
    )
    model = _filled(transformers.ViTForImageClassification(config))
    model.save_pretrained(tmp_path / "saved")
    with torch.inference_mode():
        assert _agree(_read(tmp_path / "saved"), model(pixel_values=images).logits, images)
