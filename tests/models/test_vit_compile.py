"""The model is one graph to torch.compile, and torch.export carries it away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

CONFIG = ViTConfig(image_size=(8, 12), patch_size=4, num_classes=5, width=16, depth=2, num_heads=2, mlp_size=24)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"pooling": "map", "class_token": False, "position_embedding": "sincos_2d_mae"},
    {"position_embedding": "relative", "block_style": "post_norm", "pooling": "gap"},
    {"position_embedding": "learned_2d", "position_placement": "every_layer", "distillation_token": True},
    {"stem": "conv", "stem_widths": (6, 8), "stem_blocks": (0, 1), "layer_scale_init": 0.1, "num_register_tokens": 2},
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model(changes: dict[str, Any]) -> VisionTransformer:
    made = VisionTransformer(replace(CONFIG, **changes))
    torch.nn.init.normal_(made.head.weight)
    return made


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_compile_sees_one_graph_in_training_and_in_evaluation(changes: dict[str, Any]) -> None:
    made = model({**changes, "dropout_rate": 0.1, "stochastic_depth_rate": 0.1})
    images = torch.randn(2, 3, 8, 12)
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    compiled(images).sum().backward()
    made.eval()
    torch.testing.assert_close(compiled(images), made(images))


def test_compile_sees_one_graph_with_checkpointing() -> None:
    made = model({})
    made.gradient_checkpointing = True
    torch.compile(made, fullgraph=True, backend="aot_eager")(torch.randn(2, 3, 8, 12)).sum().backward()
    assert made.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_an_exported_model_answers_the_same_for_any_batch(changes: dict[str, Any]) -> None:
    made = model(changes).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(made, (torch.randn(2, 3, 8, 12),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 8, 12)
    torch.testing.assert_close(exported.module()(images), made(images), atol=1e-5, rtol=1e-5)
