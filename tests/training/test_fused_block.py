"""Fused blocks compute what plain ones do: values, every gradient, whole runs; and keep out where they do not suit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_run import CONFIG, Toy

from vitrail.layers.block import Block
from vitrail.layers.mlp import make_activation
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.training import fused_block
from vitrail.training.block_kernels import Gelu, block_kernels
from vitrail.training.events import SilentSink
from vitrail.training.fused_block import can_fuse, fused, set_fused

needs_kernels = pytest.mark.skipif(block_kernels() is None, reason="no processor with AVX512-BF16, or no compiler")
SMALL = ViTConfig(image_size=(8, 8), patch_size=4, num_classes=3, width=32, depth=3, num_heads=2, mlp_size=48)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    batch, tokens, width = qkv.shape
    query, key, value = qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, tokens, width // 3)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 70),
    heads=st.integers(1, 3),
    lanes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 1.0, 6.0]),
)
def test_attention_is_that_of_float64(batch: int, tokens: int, heads: int, lanes: int, scale: float) -> None:
    kernels = block_kernels()
    assert kernels is not None
    draw = torch.Generator().manual_seed(tokens)
    qkv = (scale * torch.randn(batch, tokens, 3 * heads * 16 * lanes, generator=draw)).bfloat16()
    grad = torch.randn(batch, tokens, heads * 16 * lanes, generator=draw).bfloat16()
    exact = qkv.double().requires_grad_()
    expected = attend(exact, heads)
    expected.backward(grad.double())
    found, lse = kernels.attention_forward(qkv, heads)
    back, sums = kernels.attention_backward(qkv, found, lse, grad)
    assert exact.grad is not None
    assert distance(found, expected.detach()) < 0.005
    # Where one weight is all but 1 the gradients of query and key are differences of nearly equal numbers: what
    # rounding leaves of them is by the lengths of value and key.
    rounding = 0.01 * grad.double().norm() * max(scale, scale**2)
    assert (back.double() - exact.grad).norm() < 0.01 * exact.grad.norm() + rounding
    assert (sums - back.double().sum((0, 1))).norm() < 0.01 * back.double().norm()


@needs_kernels
@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize("width", [16, 48, 192])
def test_the_norm_is_that_of_float64(rows: int, width: int) -> None:
    kernels = block_kernels()
    assert kernels is not None
    draw = torch.Generator().manual_seed(0)
    stream, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((rows, width), (width,), (width,)))
    branch, grad = (torch.randn(rows, width, generator=draw).bfloat16() for _ in range(2))
    exact = (stream + branch.float()).double().requires_grad_()
    parameters = [value.double().requires_grad_() for value in (weight, bias)]
    F.layer_norm(exact, (width,), *parameters, eps=1e-6).backward(grad.double())
    sums, normed, mean, rstd = kernels.norm_forward(stream, branch, weight, bias, 1e-6)
    assert torch.equal(sums, stream + branch.float())
    assert distance(normed, F.layer_norm(exact, (width,), *parameters, eps=1e-6).detach()) < 0.005
    passing = torch.randn(rows, width, generator=draw)
    total, copy = torch.empty_like(passing), torch.empty(rows, width, dtype=torch.bfloat16)
    again, weight_grad, bias_grad, grad_sum = kernels.norm_backward(
        grad, sums, mean, rstd, weight, bias, passing, total, copy
    )
    assert torch.equal(again, normed)
    assert exact.grad is not None
    assert parameters[0].grad is not None
    assert parameters[1].grad is not None
    assert distance(total - passing, exact.grad) < 1e-4
    assert torch.equal(copy, total.bfloat16())
    assert distance(weight_grad, parameters[0].grad) < 1e-4
    assert distance(bias_grad, parameters[1].grad) < 1e-4
    assert distance(grad_sum, total.double().sum(0)) < 1e-4
    lowered, sums = kernels.lower(total)
    assert torch.equal(lowered, copy)
    assert distance(sums, total.double().sum(0)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "quick_gelu"])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (130, 48)])
def test_gelu_is_that_of_float64(kind: Gelu, rows: int, width: int) -> None:
    kernels = block_kernels()
    assert kernels is not None
    draw = torch.Generator().manual_seed(0)
    hidden = (3 * torch.randn(rows, width, generator=draw)).bfloat16()
    hidden[0, :4] = torch.tensor([-100.0, 100.0, 0.0, -12.0])
    grad = torch.randn(rows, width, generator=draw).bfloat16()
    exact = hidden.double().requires_grad_()
    expected = make_activation(kind)(exact)
    expected.backward(grad.double())
    active, back, again = torch.empty_like(hidden), grad.clone(), torch.empty_like(hidden)
    kernels.gelu_forward(hidden, active, kind)
    sums = kernels.gelu_backward(hidden, back, again, kind)
    assert exact.grad is not None
    assert distance(active, expected.detach()) < 0.005
    assert torch.equal(again, active)
    assert distance(back, exact.grad) < 0.005
    assert distance(sums, exact.grad.sum(0)) < 0.005


@needs_kernels
def test_what_is_not_finite_is_not_lost() -> None:
    """A run stops at a loss that is not finite: a kernel that hid it would train on nonsense."""
    kernels = block_kernels()
    assert kernels is not None
    for kind in get_args(Gelu):
        hidden = torch.full((1, 16), float("nan"), dtype=torch.bfloat16)
        active = torch.zeros_like(hidden)
        kernels.gelu_forward(hidden, active, kind)
        assert active.isnan().all(), kind
    qkv = torch.randn(1, 5, 96).bfloat16()
    qkv[0, 2, 0] = float("nan")
    heads, _ = kernels.attention_forward(qkv, 2)
    assert heads[..., :16].isnan().any()
    _, normed, _, _ = kernels.norm_forward(
        torch.full((1, 16), float("inf")), None, torch.ones(16), torch.zeros(16), 1e-6
    )
    assert not normed.isfinite().any()


def gradients(model: torch.nn.Module, images: Tensor, is_fused: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    model.zero_grad()
    set_fused(model, is_fused)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        answers = model(images)
    (answers.float() ** 2).sum().backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {"answers": answers.detach().float(), **found}


SHAPES = {
    "class token": SMALL,
    "LayerScale": replace(SMALL, layer_scale_init=0.3),
    "gap, no class token": replace(SMALL, pooling="gap", class_token=False),
    "map": replace(SMALL, pooling="map"),
    "registers, both pooled": replace(SMALL, pooling="token_and_gap", num_register_tokens=3),
    "distilled": replace(SMALL, distillation_token=True),
    "no bias": replace(SMALL, qkv_bias=False),
    "heads wider than tokens": replace(SMALL, head_dim=48),
    "axial": replace(SMALL, attention="axial", pooling="gap", class_token=False),
    "convolutional stem": replace(SMALL, stem="conv", stem_widths=(16,), pooling="avg"),
    "tanh": replace(SMALL, activation="gelu_tanh"),
    "quick": replace(SMALL, activation="quick_gelu"),
    "one token": replace(SMALL, patch_size=8, pooling="gap", class_token=False),
    "every layer": replace(SMALL, position_placement="every_layer"),
}


@needs_kernels
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("chunk", [1, 1 << 30])
def test_gradients_are_as_near_to_float32_as_the_plain_ones(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_block, "_CHUNK_BYTES", chunk)
    config = SHAPES[name]
    model = build_model(config, generator=torch.Generator().manual_seed(0)).train()
    torch.nn.init.normal_(model.head.weight, std=0.2)  # a fresh head passes nothing back
    assert can_fuse(model)
    images = torch.randn(5, 3, *config.image_size, generator=torch.Generator().manual_seed(1))
    exact = gradients(model, images, False, torch.float32)
    plain = gradients(model, images, False, torch.bfloat16)
    ours = gradients(model, images, True, torch.bfloat16)
    assert any(not torch.equal(plain[key], ours[key]) for key in plain), "the kernels never ran"
    # Of one tensor the rounding is luck, of all together it is not.
    for key, expected in exact.items():
        if expected.norm() > 1e-6:
            assert distance(ours[key], expected) < 3 * distance(plain[key], expected) + 0.05, key
    assert distance(_whole(ours), _whole(exact)) < 1.5 * distance(_whole(plain), _whole(exact)) + 0.002


def _whole(tensors: dict[str, Tensor]) -> Tensor:
    """Side by side, each by its own length."""
    return torch.cat([(value / value.norm().clamp(min=1e-12)).flatten() for value in tensors.values()])


@needs_kernels
@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "relu"},
        {"activation": "swiglu"},
        {"block_style": "post_norm"},
        {"dropout_rate": 0.1},
        {"attention_dropout_rate": 0.1},
        {"stochastic_depth_rate": 0.3},
        {"position_embedding": "relative"},
        {"width": 24},
        {"mlp_size": 40},
    ],
    ids=str,
)
def test_blocks_of_another_kind_stay_plain(changes: dict[str, Any]) -> None:
    config = replace(SMALL, **changes)
    model = build_model(config).train()
    set_fused(model, True)
    block = model.blocks[-1]
    assert isinstance(block, Block)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(block, torch.randn(2, 5, config.width)) is None


@needs_kernels
def test_float32_frozen_weights_and_evaluation_stay_plain() -> None:
    model = build_model(SMALL)
    set_fused(model, True)
    block, tokens = model.blocks[0], torch.randn(2, 5, 32)
    assert isinstance(block, Block)
    plain = build_model(SMALL).blocks[0]
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block(tokens), plain(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block.eval()(tokens), plain.eval()(tokens))
        block.mlp.fc1.weight.requires_grad_(False)
        assert fused(block, tokens) is None


@needs_kernels
def test_a_run_on_fused_blocks_resumes_bit_for_bit(tmp_path: Path) -> None:
    model = replace(CONFIG.model, width=32, dropout_rate=0.0, stochastic_depth_rate=0.0)
    config = replace(CONFIG, model=model, precision="bfloat16", fused_blocks=True)
    whole = Toy(config, tmp_path / "whole").run()
    plain = Toy(replace(config, fused_blocks=False)).run()
    Toy(config, tmp_path / "cut").run()
    checkpoints = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert len(checkpoints) > 1
    shutil.rmtree(checkpoints[-1])  # as a run that was killed after the one before
    found = Toy(config, tmp_path / "cut").run().objective.state_dict()
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, found[name]), name
    assert any(not torch.equal(value, found[name]) for name, value in plain.objective.state_dict().items())


def test_a_run_that_was_to_be_fused_and_cannot_be_says_so() -> None:
    """The toy's blocks drop, which no kernel does."""
    told: list[str] = []

    class Heard(SilentSink):
        def warning(self, message: str) -> None:
            told.append(message)

    Toy(replace(CONFIG, fused_blocks=True)).run(Heard())
    assert len(told) == 1
    assert told[0].startswith("fused_blocks: ")


@pytest.mark.parametrize("pooling", ["token", "gap", "map"])
@pytest.mark.parametrize("distilled", [False, True])
def test_the_last_block_of_an_update_computes_what_is_pooled_alone(pooling: str, distilled: bool) -> None:
    if distilled and pooling != "token":
        pytest.skip("a distillation token needs pooling 'token'")
    config = replace(SMALL, pooling=pooling, distillation_token=distilled, layer_scale_init=0.4)
    model = build_model(config, generator=torch.Generator().manual_seed(0)).double()
    torch.nn.init.normal_(model.head.weight, std=0.2)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    found = []
    for whole in (True, False):
        model.train().zero_grad()
        answers = model.forward_head(model.forward_features(images)) if whole else model(images)
        (answers**2).sum().backward()
        grads = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        found.append({"answers": answers.detach(), **grads})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-9, atol=1e-12, msg=name)
