from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_run import CONFIG, Toy

from vitrail.errors import RunError
from vitrail.training.config import AveragingConfig, OptimizerConfig
from vitrail.training.run_state import (
    Best,
    RunState,
    load_latest_checkpoint,
    optimizer_tensors,
    restore,
    save_checkpoint,
)


def shaken_state(toy: Toy, seed: int, num_updates: int) -> RunState:
    """A state with random weights and a history."""
    state = toy.fresh_state()
    generator = torch.Generator().manual_seed(seed)
    for step in range(num_updates):
        for parameter in state.objective.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        state.optimizer.step()
        if state.averaged is not None:
            state.averaged.update(step)
    state.step = num_updates
    return state


def names(state: RunState) -> dict[torch.Tensor, str]:
    return {parameter: name for name, parameter in state.objective.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    num_updates=st.integers(0, 3),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    rate=st.sampled_from([None, 0.9]),
    has_best=st.booleans(),
    seconds=st.floats(0, 1e9),
    score=st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)),
)
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    num_updates: int,
    optimizer: str,
    rate: float | None,
    has_best: bool,
    seconds: float,
    score: tuple[float, float],
) -> None:
    folder = tmp_path_factory.mktemp("run")
    toy = Toy(
        replace(
            CONFIG,
            optimizer=OptimizerConfig(name=optimizer),  # type: ignore[arg-type]
            averaging=AveragingConfig(rate=rate),
        )
    )
    state = shaken_state(toy, seed, num_updates)
    state.seconds, state.stopped, state.evaluated_step = seconds, "enough", num_updates
    state.extra = {"broken": ["a\n.jpg"], "seen": 3}
    if has_best:
        weights = {name: tensor.clone() for name, tensor in state.objective.model.state_dict().items()}
        state.best = Best(num_updates, score, {"accuracy": score[0]}, weights)
    save_checkpoint(folder, state)
    checkpoint, skipped = load_latest_checkpoint(folder)
    assert checkpoint is not None
    assert skipped == []
    other = toy.fresh_state()
    restore(other, checkpoint)
    assert_equal(state.objective.state_dict(), other.objective.state_dict())
    assert_equal(optimizer_tensors(state.optimizer, names(state)), optimizer_tensors(other.optimizer, names(other)))
    assert (other.averaged is None) == (rate is None)
    if state.averaged is not None and other.averaged is not None:
        assert_equal(state.averaged.model.state_dict(), other.averaged.model.state_dict())
    for name in ("step", "evaluated_step", "seconds", "stopped", "extra"):
        assert getattr(state, name) == getattr(other, name)
    if state.best is None:
        assert other.best is None
    else:
        assert other.best is not None
        assert (other.best.step, other.best.score, other.best.metrics) == (
            state.best.step,
            state.best.score,
            state.best.metrics,
        )
        assert_equal(state.best.weights, other.best.weights)


def test_a_restored_optimizer_goes_on_as_the_first_would_have(tmp_path: Path) -> None:
    toy = Toy()
    state = shaken_state(toy, 0, 3)
    save_checkpoint(tmp_path, state)
    checkpoint, _ = load_latest_checkpoint(tmp_path)
    assert checkpoint is not None
    other = toy.fresh_state()
    restore(other, checkpoint)
    for each in (state, other):
        for parameter in each.objective.parameters():
            parameter.grad = torch.ones_like(parameter)
        each.optimizer.step()
    assert_equal(state.objective.state_dict(), other.objective.state_dict())


def test_saving_changes_nothing(tmp_path: Path) -> None:
    state = shaken_state(Toy(), 0, 2)
    before = {name: tensor.clone() for name, tensor in state.objective.state_dict().items()}
    random_state = torch.get_rng_state()
    save_checkpoint(tmp_path, state)
    assert_equal(before, state.objective.state_dict())
    assert torch.equal(random_state, torch.get_rng_state())


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest_checkpoint(tmp_path) == (None, [])


def test_a_checkpoint_of_another_model_is_refused_by_tensor(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Toy().fresh_state())
    checkpoint, _ = load_latest_checkpoint(tmp_path)
    assert checkpoint is not None
    other = Toy(replace(CONFIG, model=replace(CONFIG.model, width=32))).fresh_state()
    with pytest.raises(RunError, match=r"model\.safetensors: belongs to another model.*patch_embed"):
        restore(other, checkpoint)


def test_averaging_switched_on_in_between_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Toy(replace(CONFIG, averaging=AveragingConfig())).fresh_state())
    checkpoint, _ = load_latest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(RunError, match="averaging was switched on"):
        restore(Toy().fresh_state(), checkpoint)


def test_a_state_of_a_parameter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    toy = Toy()
    save_checkpoint(tmp_path, shaken_state(toy, 0, 1))
    checkpoint, _ = load_latest_checkpoint(tmp_path)
    assert checkpoint is not None
    state = toy.fresh_state()
    state.objective.model.head.weight.requires_grad_(False)
    names_of_rest = [p for p in state.objective.parameters() if p.requires_grad]
    state.optimizer = torch.optim.AdamW(nn.ParameterList(names_of_rest), lr=1.0)
    with pytest.raises(RunError, match=r"'model\.head\.weight' is no parameter"):
        restore(state, checkpoint)
