"""Attention weights are those of float64 whatever the model is made of, and the forward pass stays what it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.test_vit_oracle import close, oracle, picture
from torch import Tensor

from vitrail.inspection.attention import LayerAttention, visit_attention
from vitrail.inspection.maps import attention_maps, mass_masks
from vitrail.layers.attention import Attention
from vitrail.layers.position_embed import RelativePositions
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

SMALL = ViTConfig(image_size=(16, 24), patch_size=4, num_classes=5, width=32, depth=3, num_heads=2, mlp_size=48)
KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"num_register_tokens": 3},
    "distilled": {"distillation_token": True},
    "no class token": {"class_token": False, "pooling": "gap"},
    "pooled by attention": {"class_token": False, "pooling": "map"},
    "relative positions": {"position_embedding": "relative"},
    "post-norm": {"block_style": "post_norm"},
    "convolutional stem": {"stem": "conv", "stem_widths": (8,)},
    "wide heads": {"head_dim": 24},
    "no bias": {"qkv_bias": False},
}


def model_of(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(replace(SMALL, **changes), generator=torch.Generator().manual_seed(0)).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_float64(kind: str) -> None:
    model = model_of(**KINDS[kind])
    seen: dict[int, Tensor] = {}

    def visit(layer: LayerAttention) -> None:
        seen[layer.layer] = torch.stack([layer.rows(0, model.config.num_tokens, head) for head in range(2)], dim=1)

    with torch.no_grad():
        plain = model.forward_features(images())
        assert torch.equal(visit_attention(model, images(), visit), plain)
    exact = model.double()
    with torch.no_grad():
        expected = exact.attention_weights(images().double())
    assert list(seen) == [0, 1, 2]
    for layer, weights in seen.items():
        assert (weights.sum(-1) - 1).abs().max() < 1e-12
        # Its queries and keys are the model's own, in float32.
        torch.testing.assert_close(weights, expected[f"blocks.{layer}"], atol=2e-5, rtol=0)


@given(tokens=st.integers(1, 40), scale=st.floats(0, 30), relative=st.booleans(), start=st.integers(0, 39))
@settings(deadline=None, max_examples=40)
def test_rows_are_the_softmax_of_the_products_to_1e_6(tokens: int, scale: float, relative: bool, start: int) -> None:
    draw = torch.Generator().manual_seed(tokens)
    query, key = (scale * torch.randn(2, 3, tokens, 8, generator=draw) for _ in range(2))
    table = RelativePositions(tokens, 8) if relative else None
    bias: Tensor | float = 0.0
    if table is not None:
        torch.nn.init.normal_(table.table, generator=draw)
        bias = table.double()(query.double()).detach()
    expected = (query.double() @ key.double().mT / math.sqrt(8) + bias).softmax(-1)
    layer = LayerAttention(0, query, key, table)
    start = min(start, tokens - 1)
    assert (layer.rows(start, tokens, 1) - expected[:, 1, start:]).abs().max() < 1e-9
    parts = torch.cat([rows for _, rows in layer.parts(2)], dim=1)
    assert (parts - expected[:, 2]).abs().max() < 1e-9


def test_a_large_batch_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.inspection.attention._MOST_BYTES", 8 * 2 * 25 * 7)
    starts: list[int] = []
    visit_attention(model_of(), images(), lambda layer: starts.extend(start for start, _ in layer.parts(0)), [0])
    assert starts == [0, 7, 14, 21]


def test_the_oracle() -> None:
    maps = attention_maps(oracle(), picture())
    close(maps[0].weights[0, 0].flatten().float(), [0.216378, 0.196236, 0.220367, 0.195821])
    close(maps[1].weights[0, 1].flatten().float(), [0.077406, 0.392704, 0.087457, 0.255728])
    assert [one.source for one in maps] == ["class token"] * 2


def test_models_that_pool_patches_show_the_mean_of_their_rows() -> None:
    model = model_of(class_token=False, pooling="gap")
    (maps,) = attention_maps(model, images(), [-1])
    with torch.no_grad():
        expected = model.attention_weights(images(), [2])["blocks.2"].mean(2)
    torch.testing.assert_close(maps.weights.flatten(-2).float(), expected, atol=1e-5, rtol=0)
    assert (maps.layer, maps.source) == (2, "mean of the patches")


def attend_evenly(model: VisionTransformer) -> VisionTransformer:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention):
                module.qkv.weight.zero_()
                module.qkv.bias.zero_()
    return model


def test_entropy_is_the_logarithm_of_the_tokens_where_all_are_seen_alike() -> None:
    for maps in attention_maps(attend_evenly(model_of()), images()):
        torch.testing.assert_close(maps.entropy, torch.full((2, 2), math.log(25), dtype=torch.float64))


def test_entropy_is_0_where_one_token_is_seen() -> None:
    # A query and a key of one direction, and their lengths such that no other weight is left.
    model = attend_evenly(model_of())
    attn = next(module for module in model.modules() if isinstance(module, Attention))
    with torch.no_grad():
        tokens = model.blocks[0].norm1(model.embed(images(1)))[0]  # type: ignore[union-attr, operator]
        attn.qkv.bias[:32] = 1
        attn.qkv.weight[32:64] = 1e4 * (tokens[0] - tokens[1:].mean(0))
    assert attention_maps(model, images(1), [0])[0].entropy.max() < 1e-6


def test_masks_hold_the_share_and_would_not_without_their_least_patch() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 5, 6, generator=draw, dtype=torch.float64) ** 3
    masks = mass_masks(maps, 0.6)
    held = (maps * masks).sum((-1, -2)) / maps.sum((-1, -2))
    least = torch.where(masks, maps, torch.inf).amin((-1, -2)) / maps.sum((-1, -2))
    assert (held >= 0.6 - 1e-9).all()
    assert (held - least < 0.6).all()
    assert mass_masks(torch.tensor([[0.0, 1.0]]), 0.6).tolist() == [[False, True]]
    with pytest.raises(ValueError, match=r"share 1\.5 is not above 0 and at most 1"):
        mass_masks(maps, 1.5)


def test_what_has_no_such_weights_is_refused() -> None:
    axial = VisionTransformer(replace(SMALL, attention="axial", class_token=False, pooling="gap")).eval()
    with pytest.raises(ValueError, match="axial"):
        visit_attention(axial, images(), lambda layer: None)
    with pytest.raises(ValueError, match=r"no layer 3: the model has 3 blocks, 0 to 2"):
        visit_attention(model_of(), images(), lambda layer: None, [3])
    with pytest.raises(ValueError, match=r"training mode.*call eval\(\) first"):
        visit_attention(model_of().train(), images(), lambda layer: None)


def test_nothing_stays_on_the_model_when_a_visitor_fails() -> None:
    model = model_of()

    def fail(layer: LayerAttention) -> None:
        raise KeyError(layer.layer)

    with pytest.raises(KeyError):
        visit_attention(model, images(), fail)
    assert not any(module._forward_hooks for module in model.modules())
