"""Bytes of a training run: one update is gone through without any numbers in it, and what lives is counted.

Every kind of model, objective, precision and checkpointing is counted by the same walk, because torch itself goes
through it: its fake tensors have shapes and no storage, so the walk takes seconds and no memory.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitrail.data.config import Augmentation, DataConfig
from vitrail.data.loader import Batch
from vitrail.models.build import build_model
from vitrail.objectives.base import Inputs, Objective
from vitrail.training.build import build_objective
from vitrail.training.config import EVALUATION_BATCH, ScheduleConfig, TrainConfig
from vitrail.training.fused_block import set_fused
from vitrail.training.optimizer import parameter_groups
from vitrail.training.precision import autocast

Precision = Literal["float32", "bfloat16"]
_FLOAT = 4
# Live bytes after the same event are affine in the number of pictures, so two walks tell those of any number. Not one
# picture: a dimension of 1 is dropped or expanded here and there.
_FEW, _MORE = 2, 4


@dataclass(frozen=True)
class RunMemory:
    """Bytes that live at the most memory-hungry moment of a run, by what they are for."""

    weights: int  # with those of the objective's own networks
    optimizer: int  # AdamW two numbers a weight, SGD and Muon's kernels one
    averaged: int  # the Polyak average, where there is one
    best: int  # copy of the best weights so far, in the memory of the host
    gradients: int
    batch: int  # the pictures as bytes, and as numbers
    kept: int  # for the backward pass of one micro-batch, from the forward pass
    # The most at once of gradients, `kept`, and what comes and goes. Not their sum: where no micro-batch went before,
    # the gradients grow while what was kept goes.
    update: int
    evaluation: int  # of one batch of it

    @property
    def state(self) -> int:
        """What lives as long as the run, beside the copy on the host."""
        return self.weights + self.optimizer + self.averaged

    @property
    def peak(self) -> int:
        """On the device that computes; the copy of the best weights is not there."""
        # At the end the best weights are evaluated in a model of their own, while the run's state is still there.
        return self.state + max(self.batch + self.update, self.weights + self.evaluation)

    @property
    def peak_on_cpu(self) -> int:
        """As `peak`, for a CPU, where the best weights share its memory."""
        return self.peak + self.best


def run_memory(
    config: TrainConfig, precision: Precision, *, num_devices: int = 1, num_evaluated: int = EVALUATION_BATCH
) -> RunMemory:
    """The memory of one of `num_devices` devices that share each batch and have all of the weights.

    Args:
        num_evaluated: pictures of a batch of an evaluation.
    """
    on_device = -(-config.batch_size // num_devices)
    micro_batch = -(-on_device // config.accumulation_steps)
    # What the walk does not depend on, so that a search for what fits does not repeat it.
    same = replace(
        config,
        recipe="",
        data=DataConfig(""),
        augmentation=Augmentation(),
        schedule=ScheduleConfig(),
        batch_size=1,
        accumulation_steps=1,
        seed=0,
        precision=precision,
        weights=None,
    )
    few, more = (_walk(same, count, config.accumulation_steps > 1) for count in (_FEW, _MORE))
    return RunMemory(
        weights=few.weights,
        optimizer=few.optimizer,
        averaged=0 if config.averaging.rate is None else few.weights,
        best=few.weights,
        gradients=few.gradients,
        batch=_extrapolate(few.inputs, more.inputs, on_device),
        kept=_extrapolate(few.kept, more.kept, micro_batch),
        update=_highest(few.levels, more.levels, micro_batch),
        evaluation=_highest(few.evaluation, more.evaluation, num_evaluated),
    )


def _highest(few: tuple[int, ...], more: tuple[int, ...], count: int) -> int:
    return max(_extrapolate(*levels, count) for levels in zip(few, more, strict=True))


def _extrapolate(few: int, more: int, count: int) -> int:
    return few + (count - _FEW) * (more - few) // (_MORE - _FEW)


@dataclass(frozen=True)
class _Walk:
    """Bytes of one update of so many pictures."""

    weights: int
    optimizer: int
    gradients: int
    inputs: int
    kept: int
    levels: tuple[int, ...]  # live bytes beyond weights and inputs, after each new storage
    evaluation: tuple[int, ...]  # likewise, of an evaluation of as many pictures


@lru_cache(maxsize=32)
def _walk(config: TrainConfig, num_pictures: int, accumulates: bool) -> _Walk:
    with torch.device("meta"):
        model = build_model(config.model, initialize=False)
    model.gradient_checkpointing = config.checkpointing
    num_classes = max(1, config.model.num_classes)
    objective = build_objective(config, model, [1] * num_classes).to("meta")
    set_fused(objective, bool(config.fused_blocks))
    pictures = _pictures(config, num_pictures)
    shapes = objective.prepare(pictures, torch.Generator().manual_seed(0))
    precision = "float32" if config.precision == "float32" else "bfloat16"
    with FakeTensorMode(), _Live() as live:
        _lay_out(objective)
        weights = live.now
        inputs: Inputs = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in shapes.items()}
        start, kept = live.now, 0
        live.levels.clear()
        for _ in range(2 if accumulates else 1):
            before = live.now
            with autocast(torch.device("cpu"), precision):
                loss, metrics = objective(inputs, 0)
            kept = live.now - before
            loss.backward()
            del loss, metrics
        update = tuple(level - start for level in live.levels)
        gradients = live.now - start
        objective.zero_grad()
        live.levels.clear()
        _evaluate(objective, inputs)
        evaluation = tuple(level - weights for level in live.levels)
    return _Walk(
        weights=weights,
        optimizer=_FLOAT * _optimizer_numbers(objective, config),
        gradients=gradients,
        inputs=start - weights + pictures.images.nbytes,
        kept=kept,
        levels=update,
        evaluation=evaluation,
    )


def _pictures(config: TrainConfig, count: int) -> Batch:
    images = torch.zeros(count, config.model.in_channels, *config.model.image_size, dtype=torch.uint8)
    return Batch(images, torch.zeros(count, dtype=torch.int64), torch.arange(count), epoch=0)


def _lay_out(objective: nn.Module) -> None:
    """Give every parameter and buffer a place among the tensors that are counted."""
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@torch.no_grad()
def _evaluate(objective: Objective, inputs: Inputs) -> None:
    objective.model.eval()(inputs["images"])


def _optimizer_numbers(objective: Objective, config: TrainConfig) -> int:
    """As training/optimizer.py keeps them."""
    total = 0
    for group in parameter_groups(objective, config.optimizer):
        slots = 1 if config.optimizer.name == "sgd" or group["orthogonal"] else 2
        total += slots * sum(parameter.numel() for parameter in group["params"])
    return total


class _Live(TorchDispatchMode):
    """Counts the storages of all tensors that are made while it is on, each once, until the last view of it goes.

    Attributes:
        now: bytes that live.
        levels: `now` after each new storage, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.levels: list[int] = []
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._known:
            self._known[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.levels.append(self.now)
            weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self.now -= self._known.pop(place)
