"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic iteration and its number of steps, as published with Muon: tuned for speed, so singular
# values end between about 0.7 and 1.2 and not at 1.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
# Gives an update the root mean square that AdamW's typically has, so that one learning rate suits both
# (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
_UPDATE_RMS = 0.2
_EPSILON = 1e-8  # of AdamW


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthogonal rows (or columns, where there are more rows), approximately.

    U V^T of the singular value decomposition U S V^T, by a Newton-Schulz iteration in bfloat16: matrix products alone.

    Args:
        matrix: (rows, columns).
    Returns:
        float32, same shape; zero for a zero matrix.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(torch.bfloat16)
    # The iteration converges for singular values up to about 1.3; the Frobenius norm bounds the largest one.
    x = x / (x.norm() + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for the groups with "orthogonal" set, AdamW for the others (heads, biases, norms, tokens, positions).

    A convolution's kernel counts as the matrix (out, in * height * width). Weight decay is decoupled in both.

    Args:
        params: groups; every one has "orthogonal", True or False, and "weight_decay".
        betas: of the AdamW groups.
        momentum: of the orthogonal groups, in Nesterov's form.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], momentum: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._orthogonal_update if group["orthogonal"] else self._adam_update
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, group)
        return loss

    def _orthogonal_update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        average = state["average"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(average, group["momentum"]).flatten(1)
        update = orthogonalize(direction).reshape(parameter.shape)
        parameter.add_(update, alpha=-group["lr"] * _UPDATE_RMS * math.sqrt(max(direction.shape)))

    def _adam_update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Loshchilov and Hutter 2019, algorithm 2."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        average = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(_EPSILON)
        parameter.addcdiv_(average, denominator, value=-group["lr"] / (1 - beta1**step))
