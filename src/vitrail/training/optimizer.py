"""Optimizers: which parameters decay, which learn more slowly, and which rule updates them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.training.config import OptimizerConfig
from vitrail.training.muon import Muon

# What stands behind the encoder learns at the full rate; all that is neither this nor a block feeds the first block.
_BEHIND_THE_BLOCKS = ("norm", "fc_norm", "attn_pool", "pre_logits", "head", "head_dist")


def is_kernel(name: str, parameter: Tensor) -> bool:
    """Matrices and convolutions: what weight decay applies to.

    Biases, norms, tokens, positions, probes and LayerScale are none (big_vision decays `.*/kernel$` alone).
    """
    return name.rpartition(".")[2] == "weight" and parameter.ndim >= 2


def is_orthogonalized(name: str, parameter: Tensor) -> bool:
    """What Muon's orthogonal update applies to: kernels but those of heads, whose rows are classes of their own."""
    return is_kernel(name, parameter) and not {"head", "head_dist"} & set(name.split("."))


# Blocks of a Vision Transformer, stages of a ResNet: those of a hybrid's stem stand deeper in the name.
_LAYER = r"(?:blocks|stages)\.(\d+)\."


def layer_scale_of(name: str, depth: int, layer_decay: float) -> float:
    """The factor on the learning rate of one parameter of a model with `depth` blocks (Clark et al. 2020, ELECTRA).

    1 for the final norm, pooling and head; layer_decay ** (depth - i) for block i, counted from 0;
    layer_decay ** (depth + 1) for the stem, tokens and positions. Of a ResNet a stage is a block.

    Args:
        name: as in `model.named_parameters()`.
    """
    block = re.match(_LAYER, name)
    if block:
        return layer_decay ** (depth - int(block[1]))
    if name.partition(".")[0] in _BEHIND_THE_BLOCKS:
        return 1.0
    return layer_decay ** (depth + 1)


def parameter_groups(objective: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups that share decay and learning rate.

    Args:
        objective: its parameters under `model.` have layers; its own (projections, queues) learn at the full rate.
            A bare model will do as well.
    Returns:
        Groups for a torch optimizer, each with "weight_decay", "layer_scale", the factor on the learning rate, and
        "orthogonal", whether Muon makes its updates orthogonal.
    """
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    prefix = "model." if isinstance(getattr(objective, "model", None), nn.Module) else ""
    blocks = [int(match[1]) for name, _ in named if (match := re.match(re.escape(prefix) + _LAYER, name))]
    depth = max(blocks, default=-1) + 1
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in named:
        of_model = name.startswith(prefix)
        scale = layer_scale_of(name.removeprefix(prefix), depth, config.layer_decay) if of_model else 1.0
        decay = config.weight_decay if is_kernel(name, parameter) else 0.0
        orthogonal = config.name == "muon" and is_orthogonalized(name, parameter)
        scale *= config.kernel_rate if orthogonal else 1.0
        settings = {"weight_decay": decay, "layer_scale": scale, "orthogonal": orthogonal}
        group = groups.setdefault((decay, scale, orthogonal), {"params": [], **settings})
        group["params"].append(parameter)
    if not groups:
        raise ValueError("nothing to train: no parameter requires a gradient")
    return list(groups.values())


class DecoupledSGD(torch.optim.SGD):
    """Momentum SGD (no Nesterov) whose weight decay is decoupled as AdamW's: w <- w - lr * (momentum + decay * w).

    torch's own SGD adds the decay to the gradient, where it passes through the momentum (Loshchilov and Hutter 2019).
    """

    def __init__(self, params: Any, lr: float, momentum: float) -> None:
        super().__init__(params, lr=lr, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            if group["weight_decay"]:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def build_optimizer(objective: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, Muon or momentum SGD over `parameter_groups`; the loop sets the learning rate before every step."""
    groups = parameter_groups(objective, config)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    if config.name == "sgd":
        return DecoupledSGD(groups, lr=config.learning_rate, momentum=config.momentum)
    if config.name == "muon":
        return Muon(groups, lr=config.learning_rate, betas=config.betas, momentum=config.momentum)
    raise ValueError(f"optimizer {config.name!r} is none of adamw, sgd, muon")


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group `learning_rate` times its layer scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["layer_scale"]


def clip_gradients(parameters: list[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients together so that their global norm is at most `max_norm` (Pascanu et al. 2013).

    Returns:
        The norm before clipping, a scalar tensor; not finite where any gradient is not.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
