from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toy_run import CONFIG

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.training.build import build_state
from vitrail.training.config import OptimizerConfig
from vitrail.training.optimizer import (
    build_optimizer,
    clip_gradients,
    is_kernel,
    layer_scale_of,
    parameter_groups,
    set_learning_rate,
)

# Every kind of parameter there is.
RICH = ViTConfig(
    image_size=(8, 8),
    patch_size=4,
    in_channels=1,
    num_classes=3,
    width=16,
    depth=2,
    num_heads=2,
    mlp_size=32,
    pooling="map",
    num_register_tokens=2,
    layer_scale_init=0.1,
    pre_logits_size=8,
    stem="conv",
    stem_widths=(4,),
    stem_blocks=(1,),
)


def toy_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_only_kernels_decay() -> None:
    model = VisionTransformer(RICH)
    decaying = {name for name, parameter in model.named_parameters() if is_kernel(name, parameter)}
    kernels = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert decaying == kernels
    for name in ("cls_token", "reg_token", "pos_embed", "attn_pool.latent", "blocks.0.ls1.gamma", "norm.weight"):
        assert name in dict(model.named_parameters())
        assert name not in decaying


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = VisionTransformer(RICH)
    groups = parameter_groups(model, OptimizerConfig(layer_decay=0.5))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_frozen_parameters_are_left_out_and_nothing_to_train_is_refused() -> None:
    model = VisionTransformer(RICH).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(model, OptimizerConfig())
    model.head.requires_grad_(True)
    groups = parameter_groups(model, OptimizerConfig())
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_learn_more_slowly_the_nearer_they_are_to_the_picture(wrapped: bool) -> None:
    state = build_state(replace(CONFIG, model=replace(RICH, num_classes=10)), VisionTransformer(RICH), [1, 1, 1])
    module = state.objective if wrapped else state.objective.model
    scales = {
        id(p): group["layer_scale"]
        for group in parameter_groups(module, OptimizerConfig(layer_decay=0.5))
        for p in group["params"]
    }
    found = {name: scales[id(p)] for name, p in state.objective.model.named_parameters()}
    assert {found[n] for n in found if n.startswith(("head", "pre_logits", "attn_pool", "norm"))} == {1.0}
    assert {found[n] for n in found if n.startswith("blocks.1.")} == {0.5}
    assert {found[n] for n in found if n.startswith("blocks.0.")} == {0.25}
    lowest = ("patch_embed", "pos_embed", "cls_token", "reg_token")
    assert {found[n] for n in found if n.startswith(lowest)} == {0.125}


def test_layer_decay_agrees_with_timm() -> None:
    from timm.optim import param_groups_layer_decay

    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224", depth=3, pre_norm=True)
    groups = param_groups_layer_decay(theirs, layer_decay=0.7)
    expected = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in theirs.named_parameters():
        if name.startswith("norm."):
            continue  # timm counts the final norm with the last block; the code of MAE, as here, with the head
        assert layer_scale_of(name, 3, 0.7) == pytest.approx(expected[id(parameter)]), name


def test_adamw_is_torchs_own_on_the_same_groups() -> None:
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, betas=(0.8, 0.95))
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, config)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), foreach=False, fused=False)
    for step in range(5):
        toy_gradients(ours, step)
        toy_gradients(theirs, step)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-7)


def test_adamw_with_decay_over_rate_is_big_visions_update() -> None:
    """big_vision: w <- w - s * (lr * adam + wd * w), s the relative schedule; lr 1e-3 with wd 1e-4 is AdamW's 0.1."""
    peak, decay = 1e-3, 1e-4
    layer = nn.Linear(6, 5, bias=False).double()
    optimizer = build_optimizer(layer, OptimizerConfig(learning_rate=peak, weight_decay=decay / peak))
    weight = layer.weight.detach().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, relative in enumerate([0.0, 0.5, 1.0, 0.7, 0.1]):
        toy_gradients(layer, step)
        gradient = layer.weight.grad.clone()
        set_learning_rate(optimizer, peak * relative)
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        adam = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        weight = weight - relative * (peak * adam + decay * weight)
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-9, atol=1e-12)


def test_sgd_is_torchs_momentum_when_nothing_decays() -> None:
    ours = nn.Linear(5, 4)
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer(ours, OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=0.0))
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        toy_gradients(ours, step)
        toy_gradients(theirs, step)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_sgds_decay_takes_rate_times_decay_off_kernels_and_not_through_the_momentum() -> None:
    layer = nn.Linear(3, 2).double()
    optimizer = build_optimizer(layer, OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=0.5))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    momentum: Tensor = torch.zeros_like(weight)
    for step in range(3):
        toy_gradients(layer, step)
        momentum = 0.9 * momentum + layer.weight.grad
        weight = weight * (1 - 0.1 * 0.5) - 0.1 * momentum
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert not torch.equal(layer.bias.detach(), bias)


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, 1.0), (100.0, 5.0), (None, 5.0)])
def test_clipping_scales_all_gradients_together(max_norm: float | None, expected: float) -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([0.0, 3.0]), torch.tensor([4.0])
    norm = clip_gradients(parameters, max_norm)
    assert float(norm) == 5.0
    after = torch.cat([p.grad for p in parameters if p.grad is not None])
    assert float(after.norm()) == pytest.approx(expected, rel=1e-5)
    assert after.tolist() == pytest.approx([0.0, 3 * expected / 5, 4 * expected / 5], rel=1e-5)


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([1.0, float("nan")])
    assert not clip_gradients([parameter], 1.0).isfinite()
