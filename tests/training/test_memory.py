from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.loader import Batch
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig
from vitrail.training.build import build_state
from vitrail.training.config import AveragingConfig, OptimizerConfig, TrainConfig
from vitrail.training.memory import run_memory
from vitrail.training.precision import autocast
from vitrail.training.run_state import RunState

MODEL = ViTConfig(image_size=(32, 32), patch_size=8, width=48, depth=2, num_heads=3, mlp_size=192, num_classes=5)
CONFIG = TrainConfig(
    recipe="test",
    data=DataConfig("made-up"),
    model=MODEL,
    preprocessing=Preprocessing(image_size=(32, 32)),
    batch_size=7,
    precision="float32",
)
WITHOUT_LABELS = replace(CONFIG, model=replace(MODEL, num_classes=0))
RUNS = {
    "plain": CONFIG,
    "map": replace(CONFIG, model=replace(MODEL, pooling="map", class_token=False)),
    "axial": replace(CONFIG, model=replace(MODEL, attention="axial", pooling="gap", class_token=False)),
    "dropout": replace(CONFIG, model=replace(MODEL, dropout_rate=0.1, stochastic_depth_rate=0.1)),
    "relative": replace(CONFIG, model=replace(MODEL, position_embedding="relative", layer_scale_init=1e-4)),
    "swiglu": replace(CONFIG, model=replace(MODEL, activation="swiglu", block_style="post_norm")),
    "conv_stem": replace(CONFIG, model=replace(MODEL, stem="conv", stem_widths=(24, 48, 96), stem_blocks=(1, 1, 0))),
    "hybrid": replace(CONFIG, model=replace(MODEL, patch_size=16, stem="resnet", stem_widths=(32,), stem_blocks=(1,))),
    "resnet": replace(CONFIG, model=ResNetConfig(image_size=(32, 32), depths=(1, 1), num_classes=5)),
    "masked_patches": replace(WITHOUT_LABELS, objective=MaskedPatchesConfig()),
    "next_patch": replace(WITHOUT_LABELS, objective=NextPatchConfig(target="pixels")),
}


def _state_and_inputs(config: TrainConfig) -> tuple[RunState, dict[str, Tensor]]:
    model = config.model
    state = build_state(config, build_model(model), [1] * max(1, model.num_classes))
    count = config.batch_size
    images = torch.randint(0, 256, (count, model.in_channels, *model.image_size), dtype=torch.uint8)
    batch = Batch(images, torch.zeros(count).long(), torch.arange(count), epoch=0)
    return state, state.objective.prepare(batch, torch.Generator().manual_seed(0))


def _saved_bytes(config: TrainConfig, precision: str) -> int:
    """What autograd holds at the end of the forward pass, each storage once, without weights and inputs."""
    state, inputs = _state_and_inputs(config)
    objective = state.objective.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*objective.state_dict().values(), *inputs.values())}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(torch.device("cpu"), precision),
    ):
        loss = objective(inputs, 0).loss
    assert loss.requires_grad
    return sum(held.values())


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "float32") for name in RUNS), *((name, "bfloat16") for name in ("plain", "conv_stem", "resnet"))],
)
def test_what_is_kept_is_what_autograd_holds(name: str, precision: Literal["float32", "bfloat16"]) -> None:
    saved = _saved_bytes(RUNS[name], precision)
    assert run_memory(RUNS[name], precision).kept == pytest.approx(saved, rel=0.03)


@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_checkpointing_keeps_what_autograd_holds_and_computes_the_rest_again(kind: str) -> None:
    config = replace(RUNS[kind], checkpointing=True)
    memory, without = run_memory(config, "float32"), run_memory(RUNS[kind], "float32")
    assert memory.kept == pytest.approx(_saved_bytes(config, "float32"), rel=0.03)
    assert memory.kept < without.kept
    assert memory.kept < memory.update <= without.update


@pytest.mark.parametrize("pooling", ["token", "map"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_the_optimizer_keeps_as_many_bytes_as_are_counted(
    name: Literal["adamw", "sgd", "muon"], pooling: Literal["token", "map"]
) -> None:
    model = replace(MODEL, pooling=pooling, class_token=pooling == "token", pre_logits_size=16)
    config = replace(CONFIG, model=model, optimizer=OptimizerConfig(name=name), averaging=AveragingConfig(0.9))
    state, inputs = _state_and_inputs(config)
    state.objective(inputs, 0).loss.backward()
    state.optimizer.step()
    memory = run_memory(config, "float32")
    kept = [value for values in state.optimizer.state.values() for value in values.values()]
    # Counters of steps are single numbers.
    assert memory.optimizer == sum(tensor.nbytes for tensor in kept if torch.is_tensor(tensor) and tensor.ndim > 0)
    assert memory.weights == sum(parameter.nbytes for parameter in state.objective.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in state.objective.parameters() if p.grad is not None)
    assert state.averaged is not None
    assert memory.averaged == sum(parameter.nbytes for parameter in state.averaged.model.parameters())


def test_micro_batches_and_devices_share_what_is_kept() -> None:
    config = replace(CONFIG, batch_size=64)
    whole = run_memory(config, "float32")
    assert run_memory(replace(config, accumulation_steps=8), "float32").kept == pytest.approx(whole.kept / 8, rel=0.02)
    halved = run_memory(config, "float32", num_devices=2)
    assert halved.kept == pytest.approx(whole.kept / 2, rel=0.02)
    assert halved.weights == whole.weights
    # The gradients of the parts before are there while the next part is gone through.
    parts = run_memory(replace(config, accumulation_steps=8), "float32")
    assert parts.update >= parts.kept + parts.gradients
