"""Normalisation, MixUp, CutMix and random erasing of whole batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data import batches
from vitrail.data.batches import augment_batch, cutmix, cutmix_rectangle, erase, erasing_rectangle, mixup, normalize
from vitrail.data.config import BatchAugmentation, Preprocessing

FEW = settings(max_examples=60, deadline=None, derandomize=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(count: int = 6, channels: int = 3, height: int = 10, width: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(count, channels, height, width, generator=generator(1))
    return images, torch.arange(count) % 4


# ---- normalisation


def test_normalisation_is_that_of_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8, generator=generator())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = normalize(images, Preprocessing((4, 6), mean=mean, std=std))
    torch.testing.assert_close(ours, functional.normalize(images.float() / 255, mean, std), rtol=0, atol=1e-6)
    assert ours.dtype == torch.float32


def test_the_default_normalisation_spans_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    ours = normalize(images, Preprocessing((1, 1), mean=(0.5,), std=(0.5,)))
    assert ours.flatten().tolist() == [-1, 1]
    assert normalize(images[:0], Preprocessing((1, 1), mean=(0.5,), std=(0.5,))).shape == (0, 1, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_looking_values_up_changes_no_bit(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (5, channels, 111, 173), dtype=torch.uint8, generator=generator())
    preprocessing = Preprocessing((111, 173), mean=(0.485, 0.456, 0.406)[:channels], std=(0.229, 0.22, 0.2)[:channels])
    for batch in (images, images.flip(0), images.transpose(2, 3).contiguous().transpose(2, 3), images[::2]):
        found = normalize(batch, preprocessing)
        with monkeypatch.context() as patch:
            patch.setattr(batches, "pixel_kernels", lambda: None)
            assert torch.equal(found, normalize(batch, preprocessing))


def test_pictures_of_another_type_or_number_of_channels_are_refused() -> None:
    for wrong in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4).byte()):
        with pytest.raises(ValueError, match=r"uint8 \(batch, 3, height, width\)"):
            normalize(wrong, Preprocessing((4, 4)))


# ---- mixing


def test_mixup_is_the_formula_of_the_paper_with_the_neighbour_before() -> None:
    images, labels = made_up()
    targets = torch.eye(4)[labels]
    mixed, soft = mixup(images, targets, 0.7)
    for index in range(len(images)):
        torch.testing.assert_close(mixed[index], 0.7 * images[index] + 0.3 * images[index - 1])
        torch.testing.assert_close(soft[index], 0.7 * targets[index] + 0.3 * targets[index - 1])


@FEW
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_cutmix_weighs_labels_by_exactly_the_area_it_pastes(height: int, width: int, share: float, seed: int) -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, height, width)
    mixed, targets = cutmix(images, torch.eye(3), share, np.random.default_rng(seed))
    for index in range(3):
        own = (mixed[index, 0] == index).float().mean().item()
        assert targets[index, index].item() == pytest.approx(own, abs=1e-6)
        assert targets[index, index - 1].item() == pytest.approx(1 - own, abs=1e-6)
        assert ((mixed[index] == index) | (mixed[index] == (index - 1) % 3)).all()


@FEW
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.data())
def test_the_cutmix_rectangle_is_that_of_timm(height: int, width: int, share: float, data: st.DataObject) -> None:
    theirs = pytest.importorskip("timm.data.mixup")
    centre = [data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))]

    class Fixed:
        def __init__(self) -> None:
            self.left = list(centre)

        def integers(self, high: int) -> int:
            return self.left.pop(0)

    ours = cutmix_rectangle(height, width, share, Fixed())  # type: ignore[arg-type]
    drawn = list(centre)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.np.random, "randint", lambda low, high, size=None: drawn.pop(0))
        top, bottom, left, right = theirs.rand_bbox((height, width), share)
    assert ours == (top, left, bottom, right)


@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), [(0.2, 0.0), (0.8, 0.0), (0.0, 1.0), (0.8, 1.0), (0.0, 0.0)])
def test_targets_sum_to_one_and_name_a_picture_and_its_neighbour(mixup_alpha: float, cutmix_alpha: float) -> None:
    images, _ = made_up(4)
    labels = torch.arange(4)
    config = BatchAugmentation(mixup_alpha, cutmix_alpha, erasing_rate=0.25)
    for seed in range(20):
        mixed, targets = augment_batch(images, labels, 5, config, generator(seed))
        assert mixed.shape == images.shape
        assert targets.shape == (4, 5)
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        shares = targets[torch.arange(4), labels]
        assert (shares == shares[0]).all()  # one share a step
        others = targets[torch.arange(4), labels.roll(1)]
        torch.testing.assert_close(shares + others, torch.ones(4))
        assert mixup_alpha or cutmix_alpha or (shares == 1).all()


def test_mixup_keeps_at_least_half_of_each_picture_with_the_drawn_distribution() -> None:
    images, labels = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    config = BatchAugmentation(mixup_alpha=0.5)
    step = generator()
    shares = np.array([augment_batch(images, labels, 2, config, step)[1][0, 0].item() for _ in range(1500)])
    draws = np.random.default_rng(0).beta(0.5, 0.5, 100_000)
    expected = np.maximum(draws, 1 - draws)
    assert shares.min() >= 0.5
    for quantile in (0.25, 0.5, 0.75):
        assert abs((shares < np.quantile(expected, quantile)).mean() - quantile) < 4 * 0.5 / np.sqrt(1500)


def test_where_both_are_on_cutmix_takes_its_share_of_the_steps() -> None:
    images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    images[1] = 1
    config = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_switch_rate=0.25)
    step = generator()
    pasted = [set(augment_batch(images, labels, 2, config, step)[0].unique().tolist()) <= {0, 1} for _ in range(600)]
    assert abs(np.mean(pasted) - 0.25) < 4 * np.sqrt(0.19 / 600)


# ---- erasing


@FEW
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**32))
def test_an_erased_rectangle_is_inside_and_of_the_published_size(height: int, width: int, seed: int) -> None:
    top, left, bottom, right = erasing_rectangle(height, width, np.random.default_rng(seed))
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    rows, columns = bottom - top, right - left
    # Rounding both sides moves the area by at most half a pixel along each.
    assert rows * columns <= height * width / 3 + (rows + columns + 1) / 2
    assert (rows, columns) < (height, width) or height == width == 1 or rows * columns == 0


def test_erasing_fills_with_noise_and_touches_nothing_else() -> None:
    images = torch.full((400, 3, 24, 24), 9.0)
    erased = erase(images, 0.25, np.random.default_rng(0))
    changed = (erased != 9).any(1)
    share = changed.flatten(1).any(1).float().mean().item()
    assert abs(share - 0.25) < 4 * np.sqrt(0.19 / 400)
    for mask in changed[changed.flatten(1).any(1)]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    noise = erased[:, 0][changed]
    assert abs(noise.mean().item()) < 0.05
    assert abs(noise.std().item() - 1) < 0.05
    assert (images == 9).all()


# ---- the whole


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_is_a_pure_function_of_the_batch_and_the_generator(channels: int) -> None:
    images, labels = made_up(channels=channels)
    before = images.clone()
    config = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, erasing_rate=0.5)
    seen = set()
    for seed in range(8):
        first, second = (augment_batch(images, labels, 4, config, generator(seed)) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert torch.equal(images, before)
        seen.add(first[0].numpy().tobytes())
    assert len(seen) == 8


def test_every_step_takes_the_same_from_the_generator_whatever_is_on() -> None:
    images, labels = made_up()
    states = []
    for config in (BatchAugmentation(), BatchAugmentation(0.8, 1.0, erasing_rate=1.0)):
        step = generator()
        augment_batch(images, labels, 4, config, step)
        states.append(step.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_batches_pass(count: int) -> None:
    images, labels = made_up(6)
    config = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, erasing_rate=0.0)
    for seed in range(4):
        mixed, targets = augment_batch(images[:count], labels[:count], 4, config, generator(seed))
        torch.testing.assert_close(mixed, images[:count])  # a picture mixed with itself is itself
        torch.testing.assert_close(targets, torch.eye(4)[labels[:count]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_batch_comes_out_on_every_device() -> None:
    images, labels = made_up()
    config = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, erasing_rate=0.5)
    for seed in range(6):
        here = batches.augment_batch(images, labels, 4, config, generator(seed))
        there = batches.augment_batch(images.cuda(), labels.cuda(), 4, config, generator(seed))
        for ours, theirs in zip(here, there, strict=True):
            assert theirs.is_cuda
            torch.testing.assert_close(ours, theirs.cpu())
