from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.data.config import BatchAugmentation, Preprocessing
from vitrail.data.loader import Batch
from vitrail.objectives.config import SupervisedConfig
from vitrail.objectives.registry import OBJECTIVES
from vitrail.objectives.supervised import (
    Supervised,
    class_weights,
    sigmoid_loss,
    smooth_labels,
    softmax_loss,
)

GREY = Preprocessing(image_size=(2, 2), mean=(0.5,), std=(0.5,))


def batch_of(labels: list[int]) -> Batch:
    images = torch.randint(
        0, 256, (len(labels), 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Batch(images=images, labels=torch.tensor(labels), indices=torch.arange(len(labels)), epoch=0)


def objective(counts: list[int], **config: object) -> Supervised:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, len(counts)))
    return Supervised(model, SupervisedConfig(**config), BatchAugmentation(), GREY, counts)  # type: ignore[arg-type]


def test_softmax_loss_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    targets = smooth_labels(F.one_hot(labels, 3).float(), 0.2)
    torch.testing.assert_close(softmax_loss(logits, targets), expected)


def test_sigmoid_loss_sums_over_classes() -> None:
    logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 0.5]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    by_hand = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).sum(dim=1)
    torch.testing.assert_close(sigmoid_loss(logits, targets), by_hand)


def test_both_losses_are_the_logarithm_of_chance_for_a_zero_head() -> None:
    targets = F.one_hot(torch.tensor([3]), 10).float()
    assert softmax_loss(torch.zeros(1, 10), targets).item() == pytest.approx(2.302585)
    assert sigmoid_loss(torch.zeros(1, 10), targets).item() == pytest.approx(10 * 0.693147)


def test_smoothed_targets_still_sum_to_one() -> None:
    targets = smooth_labels(F.one_hot(torch.tensor([1, 0]), 4).float(), 0.1)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(targets[0], torch.tensor([0.025, 0.925, 0.025, 0.025]))


def test_balanced_weights_give_each_class_the_same_say() -> None:
    counts = [10, 30, 60]
    weights = class_weights(counts)
    shares = weights * torch.tensor(counts)
    torch.testing.assert_close(shares, shares[0].expand(3))
    assert float(shares.sum()) == pytest.approx(100)  # the mean weight of a picture is 1


def test_a_class_without_pictures_weighs_nothing_and_distorts_nothing() -> None:
    assert class_weights([5, 0, 5]).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="no pictures"):
        class_weights([0, 0])


def test_balanced_loss_is_the_weighted_mean_over_the_batch() -> None:
    counts = [8, 2]
    plain, balanced = objective(counts), objective(counts, balance=True)
    batch = batch_of([0, 0, 1])
    inputs = balanced.prepare(batch, torch.Generator())
    logits = balanced.model(inputs["images"])
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    expected = (losses * torch.tensor([0.625, 0.625, 2.5])).mean()
    torch.testing.assert_close(balanced(inputs, 0).loss, expected)
    torch.testing.assert_close(plain(inputs, 0).loss, losses.mean())


def test_the_prior_is_added_in_the_loss_and_not_in_the_answer() -> None:
    counts = [8, 2]
    learner = objective(counts, prior_strength=1.0)
    batch = batch_of([0, 0, 1])
    inputs = learner.prepare(batch, torch.Generator())
    logits = learner.model(inputs["images"])
    expected = F.cross_entropy(logits + torch.tensor([0.8, 0.2]).log(), batch.labels)
    torch.testing.assert_close(learner(inputs, 0).loss, expected)


def test_a_class_without_pictures_keeps_the_prior_finite() -> None:
    learner = objective([3, 0], prior_strength=1.0, label_smoothing=0.1)
    inputs = learner.prepare(batch_of([0, 0]), torch.Generator())
    assert learner(inputs, 0).loss.isfinite()


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("balance", [False, True])
def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_parts(loss: str, balance: bool) -> None:
    learner = objective([8, 2, 5], loss=loss, balance=balance, label_smoothing=0.1)
    inputs = learner.prepare(batch_of([0, 1, 2, 2, 0]), torch.Generator())
    first = {name: tensor[:2] for name, tensor in inputs.items()}
    rest = {name: tensor[2:] for name, tensor in inputs.items()}
    parts = learner(first, 0).loss * 0.4 + learner(rest, 0).loss * 0.6
    torch.testing.assert_close(parts, learner(inputs, 0).loss)


def test_mixing_is_done_by_prepare_and_follows_the_generator() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    learner = Supervised(model, SupervisedConfig(), BatchAugmentation(mixup_alpha=0.5), GREY, [1, 1, 1])
    batch = batch_of([0, 1, 2])
    one, same, other = (learner.prepare(batch, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one["images"], same["images"])
    assert torch.equal(one["targets"], same["targets"])
    assert not torch.equal(one["images"], other["images"])
    torch.testing.assert_close(one["targets"].sum(dim=1), torch.ones(3))


def test_equal_accuracies_are_told_apart_by_the_loss() -> None:
    score = objective([1, 1]).score
    assert score({"accuracy": 0.9, "loss": 0.5}) > score({"accuracy": 0.9, "loss": 0.6})
    assert score({"accuracy": 0.91, "loss": 9.0}) > score({"accuracy": 0.9, "loss": 0.1})


def test_class_weights_are_no_part_of_the_state() -> None:
    assert set(objective([1, 3], balance=True).state_dict()) == {"model.1.weight", "model.1.bias"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_listed_under_its_name(name: str) -> None:
    assert OBJECTIVES[name].__name__.lower() == name.replace("_", "")
