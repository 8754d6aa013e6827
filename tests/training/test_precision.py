from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_run import CONFIG, Toy

from vitrail.training.precision import autocast, run_trial


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_trial_leaves_the_run_as_it_was(precision: str) -> None:
    toy = Toy(replace(CONFIG, precision=precision))  # type: ignore[arg-type]
    state = toy.fresh_state()
    before = {name: tensor.clone() for name, tensor in state.objective.state_dict().items()}
    state.objective.eval()
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    np.random.default_rng(7)
    random_state = torch.get_rng_state()
    trial = run_trial(state.objective, toy.loader, toy.config, seconds=0.1)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not state.objective.training
    assert not state.optimizer.state
    assert all(parameter.grad is None for parameter in state.objective.parameters())
    for name, tensor in state.objective.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert trial.seconds_per_step > 0
    assert trial.num_steps > 0
    assert trial.num_threads in trial.row_seconds
    assert torch.get_num_threads() == threads
    if precision == "auto":
        assert set(trial.step_seconds) == {"float32", "bfloat16"}
    else:
        assert trial.precision == precision
        assert set(trial.step_seconds) == {precision}
    assert trial.precision in trial.describe()


def test_a_run_after_a_trial_equals_one_without() -> None:
    toy = Toy()
    plain = toy.run()
    run_trial(toy.fresh_state().objective, toy.loader, toy.config, seconds=0.05)
    after = toy.run()
    for (name, one), other in zip(
        plain.objective.state_dict().items(), after.objective.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_bfloat16_is_autocast_and_float32_is_plain() -> None:
    matrix = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "float32"):
        assert (matrix @ matrix).dtype == torch.float32
