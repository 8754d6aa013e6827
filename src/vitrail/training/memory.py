"""Bytes of a training run, term by term, from its config alone; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.models.config import ViTConfig
from vitrail.models.costs import _mlp_first, _num_blocks, _patch_kernel, _stem_layers, count_parameters
from vitrail.models.memory import ActivationMemory, activation_memory
from vitrail.training.config import TrainConfig

_FLOAT = 4
# glibc keeps freed blocks below 32 MB between those that still live: the resident memory of a process on the CPU
# exceeds what lives by about this share of what comes and goes in a step. Fitted to ten shapes from 32 to 224 pixels,
# where single ones lay between 0.09 and 0.30 (float32), 0.27 and 0.5 (bfloat16): within 10 % of the whole.
_HEAP_SHARE = {"float32": 0.19, "bfloat16": 0.36}
# Micro-batches after one another, and blocks computed again, leave more holes: one and two shapes measured.
_HEAP_SHARE_ACCUMULATING = 0.5
_HEAP_BLOCKS_CHECKPOINTING = 5


@dataclass(frozen=True)
class RunMemory:
    """Bytes that live at the most memory-hungry moment of a run, by what they are for."""

    weights: int
    optimizer: int  # AdamW two numbers a weight, SGD and Muon's kernels one
    averaged: int  # the Polyak average, where there is one
    best: int  # copy of the best weights so far, in the memory of the host
    gradients: int
    batch: int  # the pictures as bytes, and as numbers where they are accumulated in parts
    activations: ActivationMemory
    accumulates: bool

    @property
    def state(self) -> int:
        """What lives as long as the run, beside the copy on the host."""
        return self.weights + self.optimizer + self.averaged

    @property
    def peak(self) -> int:
        """On the device that computes; the copy of the best weights is not there.

        Without accumulation the gradients grow while the activations go, so only the larger of both ends counts.
        """
        return self.state + self.batch + self._step

    @property
    def peak_on_cpu(self) -> int:
        """As `peak`, for a CPU, where the best weights share its memory."""
        return self.peak + self.best

    @property
    def _step(self) -> int:
        moving = self.activations.total
        if self.accumulates:
            return self.gradients + moving
        return max(moving, self.gradients + self.activations.recomputed + self.activations.gradient_scratch)

    def with_heap(self, precision: str) -> int:
        """`peak_on_cpu` and what the C library keeps of freed memory: what the resident memory grows to.

        With checkpointing the rule is a rough one: two shapes were 6 % above and 13 % below it.
        """
        activations = self.activations
        if activations.recomputed:
            held = _HEAP_BLOCKS_CHECKPOINTING * (activations.recomputed + activations.gradient_scratch)
        else:
            held = round(max(_HEAP_SHARE[precision], _HEAP_SHARE_ACCUMULATING * self.accumulates) * self._step)
        return self.peak_on_cpu + held


def run_memory(config: TrainConfig, precision: Literal["float32", "bfloat16"], *, num_devices: int = 1) -> RunMemory:
    """The memory of one of `num_devices` devices that share each batch and have all of the weights.

    Raises:
        ValueError: an architecture that `activation_memory` does not model.
    """
    model = config.model
    if not isinstance(model, ViTConfig):
        raise ValueError("the memory of a ResNet is not modelled")
    numbers = count_parameters(model)
    fixed = model.num_patches * model.width if model.position_embedding.startswith("sincos") else 0
    on_device = -(-config.batch_size // num_devices)
    micro_batch = -(-on_device // config.accumulation_steps)
    activations = activation_memory(model, micro_batch, precision, checkpointing=config.checkpointing)
    pixels = on_device * model.in_channels * model.image_size[0] * model.image_size[1]
    accumulates = config.accumulation_steps > 1
    rest = pixels - pixels // config.accumulation_steps
    return RunMemory(
        weights=_FLOAT * (numbers + fixed),
        optimizer=_FLOAT * _optimizer_numbers(config.optimizer.name, model, numbers),
        averaged=0 if config.averaging.rate is None else _FLOAT * (numbers + fixed),
        best=_FLOAT * numbers,
        gradients=_FLOAT * numbers,
        batch=pixels + _FLOAT * rest,
        activations=activations,
        accumulates=accumulates,
    )


def _optimizer_numbers(name: str, model: ViTConfig, numbers: int) -> int:
    """As training/optimizer.py keeps them."""
    if name == "adamw":
        return 2 * numbers
    if name == "sgd":
        return numbers
    # Muon: one for the kernels, two for all that AdamW updates: heads, biases, norms, tokens, positions.
    return numbers + (numbers - _muon_kernels(model))


def _muon_kernels(model: ViTConfig) -> int:
    attention_width = model.num_heads * model.attention_head_dim
    block = 4 * model.width * attention_width + model.width * (_mlp_first(model) + model.mlp_size)
    total = _num_blocks(model) * block + _patch_kernel(model) * model.width
    total += sum(inputs * channels for inputs, channels, _ in _stem_layers(model))
    total += block if model.pooling == "map" else 0
    return total + model.pooled_width * (model.pre_logits_size or 0)
