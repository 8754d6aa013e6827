"""Muon against the singular value decomposition, torch's own Muon and AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.training.config import OptimizerConfig
from vitrail.training.muon import Muon, orthogonalize
from vitrail.training.optimizer import build_optimizer, parameter_groups

CONFIG = OptimizerConfig(name="muon", learning_rate=1e-2, kernel_rate=2.0, weight_decay=0.1, momentum=0.95)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (16, 16), (1, 9)])
def test_orthogonalizing_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalize(matrix) @ v.T
    assert inside.diagonal().min() > 0.3
    assert inside.diagonal().max() < 1.3
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.05


def test_a_zero_gradient_moves_nothing_but_by_decay() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 3)), torch.zeros(4, 3))


def test_matrices_move_as_torch_moves_them() -> None:
    ours, theirs = nn.Linear(12, 7, bias=False), nn.Linear(12, 7, bias=False)
    theirs.load_state_dict(ours.state_dict())
    muon = Muon([{"params": ours.parameters(), "weight_decay": 0.1, "orthogonal": True}], 0.02, (0.9, 0.999), 0.95)
    outside = torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = torch.randn(7, 12, generator=generator)
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        muon.step()
        outside.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=2e-3)


def _model() -> VisionTransformer:
    config = ViTConfig(
        image_size=(8, 8), patch_size=4, num_classes=3, width=8, depth=2, num_heads=2, mlp_size=16, stem="conv",
        stem_widths=(4,),
    )  # fmt: skip
    return VisionTransformer(config, generator=torch.Generator().manual_seed(0))


def test_heads_tokens_positions_norms_and_biases_follow_adamw() -> None:
    model = _model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    orthogonal = {
        names[parameter]
        for group in parameter_groups(model, CONFIG)
        if group["orthogonal"]
        for parameter in group["params"]
    }
    kernels = {name for name, parameter in model.named_parameters() if name.endswith("weight") and parameter.ndim > 1}
    assert orthogonal == kernels - {"head.weight"}
    twin = copy.deepcopy(model)
    muon = build_optimizer(model, CONFIG)
    adamw = build_optimizer(twin, OptimizerConfig(learning_rate=1e-2, weight_decay=0.1))
    for optimizer, one in ((muon, model), (adamw, twin)):
        for parameter in one.parameters():
            parameter.grad = torch.ones_like(parameter)
        for _ in range(3):
            optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7) == (name not in orthogonal), name


def test_kernels_learn_at_their_own_rate() -> None:
    scales = {group["orthogonal"]: group["layer_scale"] for group in parameter_groups(_model(), CONFIG)}
    assert scales == {True: 2.0, False: 1.0}


def test_its_state_survives_a_checkpoint() -> None:
    model = _model()
    optimizer = build_optimizer(model, CONFIG)

    def step() -> None:
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (number % 3 - 1)) + parameter.detach()
        optimizer.step()

    step()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    step()
    expected = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    optimizer = build_optimizer(model, CONFIG)
    optimizer.load_state_dict(state)
    step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
