"""The same weights give the same answers in timm: our keys are timm's keys, our order is timm's order."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

timm_vit = pytest.importorskip("timm.models.vision_transformer")
timm_deit = pytest.importorskip("timm.models.deit")

SHAPE = {"width": 24, "depth": 3, "num_heads": 3, "mlp_size": 96, "num_classes": 7, "patch_size": 4}
TIMM_SHAPE = {"embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 4.0, "num_classes": 7, "patch_size": 4}

# ours, timm's
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "class token": ({}, {}),
    "class token without position": ({"position_for_prefix": False}, {"no_embed_class": True}),
    "mean then norm": ({"pooling": "avg"}, {"global_pool": "avg"}),
    "mean then norm, no class token": (
        {"pooling": "avg", "class_token": False},
        {"global_pool": "avg", "class_token": False},
    ),
    "norm then mean": (
        {"pooling": "gap", "class_token": False},
        {"global_pool": "avg", "class_token": False, "fc_norm": False},
    ),
    "attention pooling": (
        {"pooling": "map", "class_token": False},
        {"global_pool": "map", "class_token": False},
    ),
    "attention pooling beside a class token": ({"pooling": "map"}, {"global_pool": "map"}),
    "registers": (
        {"num_register_tokens": 3, "position_for_prefix": False},
        {"reg_tokens": 3, "no_embed_class": True},
    ),
    "layer scale": ({"layer_scale_init": 0.1}, {"init_values": 0.1}),
    "no qkv bias": ({"qkv_bias": False}, {"qkv_bias": False}),
    "rectangle": ({"image_size": (12, 20)}, {"img_size": (12, 20)}),
    "grey pictures": ({"in_channels": 1}, {"in_chans": 1}),
    "no positions": ({"position_embedding": "none"}, {"pos_embed": "none"}),
    "relu": ({"activation": "relu"}, {"act_layer": "relu"}),
    "clip": (
        {"input_norm": True, "patch_bias": False, "layer_norm_eps": 1e-5, "activation": "quick_gelu"},
        {"pre_norm": True, "norm_layer": partial(torch.nn.LayerNorm, eps=1e-5), "act_layer": "quick_gelu"},
    ),
    "tanh gelu": ({"activation": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    "another epsilon": (
        {"layer_norm_eps": 1e-2},
        {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-2)},
    ),
    "no head": ({"num_classes": 0}, {"num_classes": 0}),
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def pair(ours: dict[str, Any], theirs: dict[str, Any], cls: Any) -> tuple[VisionTransformer, torch.nn.Module]:
    reference = randomised(cls(**{**TIMM_SHAPE, "img_size": 16, **theirs}))
    model = VisionTransformer(ViTConfig(**{**SHAPE, "image_size": (16, 16), **ours})).eval()
    model.load_state_dict(reference.state_dict())  # strict: the keys are timm's
    return model, reference


def images(model: VisionTransformer) -> torch.Tensor:
    return torch.randn(2, model.config.in_channels, *model.config.image_size)


@pytest.mark.parametrize("case", list(CASES))
def test_logits_features_and_intermediates_are_timms(case: str) -> None:
    model, reference = pair(*CASES[case], timm_vit.VisionTransformer)
    pictures = images(model)
    torch.testing.assert_close(model(pictures), reference(pictures), atol=2e-4, rtol=2e-4)
    tokens = model.forward_features(pictures)
    torch.testing.assert_close(tokens, reference.forward_features(pictures), atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(
        model.forward_head(tokens, pre_logits=True),
        reference.forward_head(tokens, pre_logits=True),
        atol=2e-4,
        rtol=2e-4,
    )
    stages = model.forward_intermediates(pictures)
    prefix = model.config.num_prefix_tokens
    theirs = reference.forward_intermediates(pictures, output_fmt="NLC", intermediates_only=True)
    for index, expected in enumerate(theirs):
        torch.testing.assert_close(stages[f"blocks.{index}"][:, prefix:], expected, atol=2e-4, rtol=2e-4)


def test_a_distilled_deit_answers_the_same() -> None:
    model, reference = pair({"distillation_token": True}, {}, timm_deit.VisionTransformerDistilled)
    pictures = images(model)
    torch.testing.assert_close(model(pictures), reference(pictures), atol=2e-4, rtol=2e-4)
    reference.train()
    reference.set_distilled_training(True)
    both = model.forward_both_heads(model.forward_features(pictures))
    for ours, theirs in zip(both, reference(pictures), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_gradients_are_timms() -> None:
    model, reference = pair({"layer_scale_init": 0.1}, {"init_values": 0.1}, timm_vit.VisionTransformer)
    pictures = images(model)
    for network in (model, reference):
        network(pictures).square().mean().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = theirs[name].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, theirs[name].grad / scale, atol=1e-3, rtol=0, msg=name)
