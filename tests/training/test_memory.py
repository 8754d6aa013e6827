from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.loader import Batch
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.training.build import build_state
from vitrail.training.config import AveragingConfig, OptimizerConfig, TrainConfig
from vitrail.training.memory import run_memory

MODEL = ViTConfig(image_size=(16, 16), patch_size=4, width=32, depth=2, num_heads=2, mlp_size=64, num_classes=5)
CONFIG = TrainConfig(
    recipe="test",
    data=DataConfig("made-up"),
    model=MODEL,
    preprocessing=Preprocessing(image_size=(16, 16)),
    batch_size=8,
    precision="float32",
)


@pytest.mark.parametrize("pooling", ["token", "map"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_the_optimizer_keeps_as_many_bytes_as_the_formula_says(
    name: Literal["adamw", "sgd", "muon"], pooling: Literal["token", "map"]
) -> None:
    model = replace(MODEL, pooling=pooling, class_token=pooling == "token", pre_logits_size=16)
    config = replace(CONFIG, model=model, optimizer=OptimizerConfig(name=name), averaging=AveragingConfig(0.9))
    state = build_state(config, VisionTransformer(model), [1] * 5)
    batch = Batch(torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8).long(), torch.arange(8), 0)
    inputs = state.objective.prepare(batch, torch.Generator())
    state.objective(inputs, 0).loss.backward()
    state.optimizer.step()
    memory = run_memory(config, "float32")
    kept = [value for values in state.optimizer.state.values() for value in values.values()]
    # Counters of steps are single numbers.
    assert memory.optimizer == sum(tensor.nbytes for tensor in kept if torch.is_tensor(tensor) and tensor.ndim > 0)
    assert memory.weights == sum(parameter.nbytes for parameter in state.objective.model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in state.objective.parameters() if p.grad is not None)
    assert state.averaged is not None
    assert memory.averaged == sum(parameter.nbytes for parameter in state.averaged.model.parameters())


def test_smaller_micro_batches_and_checkpointing_take_less() -> None:
    whole = run_memory(CONFIG, "float32").peak
    assert run_memory(replace(CONFIG, accumulation_steps=8), "float32").peak < whole
    assert run_memory(replace(CONFIG, model=replace(MODEL, depth=8), checkpointing=True), "float32").peak < (
        run_memory(replace(CONFIG, model=replace(MODEL, depth=8)), "float32").peak
    )
    assert run_memory(CONFIG, "float32", num_devices=2).peak < whole
