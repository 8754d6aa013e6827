from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.training.averaging import Averaged, averaging_factor


@pytest.mark.parametrize(("step", "expected"), [(0, 1 / 10), (1, 2 / 11), (89, 90 / 99), (10**6, 0.99)])
def test_the_factor_warms_up(step: int, expected: float) -> None:
    assert averaging_factor(step, 0.99) == pytest.approx(expected)


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(3, 2).double()
    averaged = Averaged(model, rate=0.5)
    expected = model.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        averaged.update(step)
        factor = min(0.5, (1 + step) / (10 + step))
        expected = factor * expected + (1 - factor) * model.weight.detach()
    torch.testing.assert_close(averaged.model.weight, expected)


def test_the_average_of_weights_that_stand_still_is_those_weights_bit_for_bit() -> None:
    model = nn.Linear(3, 2)
    averaged = Averaged(model, rate=0.999)
    for step in range(50):
        averaged.update(step)
    assert torch.equal(averaged.model.weight, model.weight)


def test_buffers_follow_too() -> None:
    model = nn.BatchNorm1d(2)
    averaged = Averaged(model, rate=0.0)
    model(torch.randn(8, 2))
    averaged.update(0)
    for (name, average), buffer in zip(averaged.model.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(average, buffer), name


def test_the_average_is_neither_trained_nor_tied_to_the_model() -> None:
    model = nn.Linear(2, 2)
    averaged = Averaged(model, rate=0.9)
    before = averaged.model.weight.clone()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(averaged.model.weight, before)
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())


def test_a_rate_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"averaging rate 1\.0"):
        Averaged(nn.Linear(1, 1), rate=1.0)
