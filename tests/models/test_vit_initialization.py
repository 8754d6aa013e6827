"""Laws of the initial weights: the reference's distributions, and the same weights from the same generator."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from vitrail.layers.initialization import lecun_normal_, xavier_uniform_
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

CONFIG = ViTConfig(
    image_size=(32, 32), patch_size=8, num_classes=7, width=96, depth=2, num_heads=3, mlp_size=192, pre_logits_size=64
)


def model(seed: int = 0, **changes: object) -> VisionTransformer:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    return VisionTransformer(config, generator=torch.Generator().manual_seed(seed))


def is_uniform(weight: Tensor, limit: float) -> bool:
    """Fills the interval to its ends, with the deviation of a uniform distribution."""
    fills = 0.99 * limit < weight.abs().max() <= limit
    return bool(fills) and abs(weight.std() / (limit / sqrt(3)) - 1) < 0.03


def test_query_key_and_value_are_three_xavier_kernels_not_one() -> None:
    attn = model().get_submodule("blocks.0.attn")
    assert isinstance(attn.qkv, nn.Linear)
    for kernel in attn.qkv.weight.chunk(3):
        assert is_uniform(kernel, sqrt(6 / (96 + 96)))
    assert isinstance(attn.proj, nn.Linear)
    assert is_uniform(attn.proj.weight, sqrt(6 / (96 + 96)))
    assert not attn.qkv.bias.any()
    assert not attn.proj.bias.any()


def test_the_limits_of_the_base_model_are_the_published_ones() -> None:
    qkv, mlp = torch.empty(3 * 768, 768), torch.empty(3072, 768)
    xavier_uniform_(qkv, torch.Generator().manual_seed(0), num_kernels=3)
    xavier_uniform_(mlp, torch.Generator().manual_seed(0))
    assert qkv.abs().max().item() == pytest.approx(0.0625, rel=1e-4)
    assert mlp.abs().max().item() == pytest.approx(0.0395285, rel=1e-4)


def test_the_mlp_is_xavier_with_tiny_biases() -> None:
    mlp = model().get_submodule("blocks.1.mlp")
    assert isinstance(mlp.fc1, nn.Linear)
    assert is_uniform(mlp.fc1.weight, sqrt(6 / (96 + 192)))
    assert mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.2)


def test_the_patch_projection_is_a_corrected_truncated_normal() -> None:
    weight = torch.empty(768, 3, 16, 16)
    lecun_normal_(weight, torch.Generator().manual_seed(0))
    assert weight.std().item() == pytest.approx(sqrt(1 / 768), rel=3e-3)
    assert weight.abs().max().item() == pytest.approx(2 * 0.0410224, rel=1e-3)
    projection = model().patch_embed.proj
    assert projection.weight.std().item() == pytest.approx(sqrt(1 / 192), rel=0.03)
    assert not projection.bias.any()


def test_tokens_positions_and_heads_start_as_the_reference_has_them() -> None:
    made = model(head_bias_init=-6.9, num_register_tokens=2)
    assert made.cls_token is not None
    assert not made.cls_token.any()
    assert isinstance(made.pos_embed, nn.Parameter)
    assert made.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert made.reg_token is not None
    assert made.reg_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert isinstance(made.head, nn.Linear)
    assert not made.head.weight.any()
    assert (made.head.bias == -6.9).all()
    hidden = made.get_submodule("pre_logits.fc")
    assert isinstance(hidden, nn.Linear)
    assert hidden.weight.std().item() == pytest.approx(sqrt(1 / 96), rel=0.05)


def test_the_probe_of_the_attention_pool_is_xavier() -> None:
    pool = model(pooling="map", class_token=False).attn_pool
    assert pool is not None
    limit = sqrt(6 / 97)
    assert 0.9 * limit < pool.latent.abs().max() <= limit
    assert isinstance(pool.kv, nn.Linear)
    for kernel in pool.kv.weight.chunk(2):
        assert is_uniform(kernel, sqrt(6 / (96 + 96)))


EVERYTHING = {
    "distillation_token": True,
    "num_register_tokens": 2,
    "pre_logits_size": None,
    "layer_scale_init": 0.1,
    "stem": "conv",
    "stem_widths": (8, 12),
    "stem_blocks": (1, 0),
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EVERYTHING,
        {**EVERYTHING, "position_embedding": "learned_2d", "position_placement": "every_layer"},
        {"pooling": "map", "position_embedding": "relative", "class_token": False},
        {"pooling": "avg", "position_embedding": "sincos_2d_mae"},
    ],
)
def test_every_parameter_and_buffer_is_filled_and_equal_generators_give_equal_weights(
    changes: dict[str, object],
) -> None:
    state = torch.get_rng_state()
    first, again, other = model(1, **changes), model(1, **changes), model(2, **changes)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    for tensor in [*first.parameters(), *first.buffers()]:
        with torch.no_grad():
            tensor.fill_(float("nan"))
    first.initialize(torch.Generator().manual_seed(1))
    assert not any(parameter.isnan().any() for parameter in first.parameters())
    equal = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(equal)
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)
    assert not any(buffer.isnan().any() for buffer in again.buffers())


def test_without_a_generator_the_global_seed_decides() -> None:
    models = []
    for seed in (3, 3):
        torch.manual_seed(seed)
        models.append(VisionTransformer(CONFIG))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_fresh_model_gives_every_class_the_same_logit() -> None:
    assert (model(head_bias_init=0.5)(torch.randn(2, 3, 32, 32)) == 0.5).all()
