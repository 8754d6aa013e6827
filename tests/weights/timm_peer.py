"""A small model of timm with random weights, saved and read here as each family's own training code saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip


def peer(name: str = "vit_base_patch16_224", **changes: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**TINY, **changes}).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.3)
    return model


def read(tree: dict[str, Any], path: Path, **choices: Any) -> Bundle:
    torch.save(tree, path)
    return read_checkpoint(open_checkpoint(path, Choices(**{"num_heads": 4, **choices})), path)


@torch.inference_mode()
def agree(bundle: Bundle, model: Any) -> bool:
    size = bundle.config.model.image_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = bundle.model(images), model(images)
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


def left_over(bundle: Bundle) -> dict[str, str]:
    assert bundle.certificate is not None
    return {tensor.name: tensor.reason for tensor in bundle.certificate.unused}


def family(bundle: Bundle) -> str:
    assert bundle.certificate is not None
    return bundle.certificate.family
