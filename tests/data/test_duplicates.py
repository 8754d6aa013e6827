"""Near-duplicates: found among many, judged by their thumbnails, never chained into one giant group."""

from __future__ import annotations

import numpy as np
import pytest

from vitrail.data.duplicates import near_duplicates, residuals

NOT_SMALL = False


def thumbnails(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, (count, 16, 16, 3) uint8."""
    waves = np.random.default_rng(seed).normal(size=(count, 4, 4, 3))
    ramp = np.cos(np.pi * np.outer(np.arange(16) + 0.5, np.arange(4)) / 16)
    images = np.einsum("yi,nijc,xj->nyxc", ramp, waves, ramp)
    return (127 + 30 * images).clip(0, 255).astype(np.uint8)


def shifted(image: np.ndarray, pixels: float) -> np.ndarray:
    places = (np.arange(16) + pixels).clip(0, 15)
    left = np.floor(places).astype(int)
    right = np.minimum(left + 1, 15)
    part = (places - left)[:, None]
    return np.rint(image[:, left] * (1 - part) + image[:, right] * part).astype(np.uint8)


def noisy(images: np.ndarray, levels: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, levels, images.shape)
    return np.rint(images + noise).clip(0, 255).astype(np.uint8)


def test_every_noisy_copy_is_found_among_thousands():
    originals = thumbnails(3000)
    copies = noisy(originals[:200], 2)
    groups = near_duplicates(np.concatenate([originals, copies]), np.zeros(3200, bool))
    assert groups == [(number, 3000 + number) for number in range(200)]


def test_unrelated_pictures_are_left_alone():
    assert near_duplicates(thumbnails(3000), np.zeros(3000, bool)) == []


def test_many_copies_of_one_picture_are_one_group():
    copies = noisy(np.repeat(thumbnails(1), 100, axis=0), 1.5)
    groups = near_duplicates(np.concatenate([thumbnails(50, 3), copies]), np.zeros(150, bool))
    assert groups == [tuple(range(50, 150))]


def test_a_slow_change_does_not_chain_everything_together():
    first, last = thumbnails(2, 9).astype(float)
    film = np.stack([first + (last - first) * share for share in np.linspace(0, 1, 120)]).astype(np.uint8)
    groups = near_duplicates(film, np.zeros(120, bool))
    assert len(groups) >= 3
    assert max(map(len, groups)) < 60
    pairs = np.array([(group[0], member) for group in groups for member in group[1:]])
    assert residuals(film, pairs, np.zeros(len(pairs), bool)).max() <= 4 * 0.015


def test_a_shift_is_allowed_for_in_large_pictures_only():
    images = thumbnails(20, 4)
    moved = np.stack([shifted(image, 0.7) for image in images])
    both = np.concatenate([images, moved])
    assert len(near_duplicates(both, np.zeros(40, bool))) == 20
    assert near_duplicates(both, np.ones(40, bool)) == []


def test_the_residual_of_a_pair_is_its_squared_difference_as_a_share_of_contrast():
    images = thumbnails(2, 6)
    flat = images.reshape(2, -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    expected = ((flat[1] - flat[0]) ** 2).mean() / (2 * flat[0].std() * flat[1].std())
    found = residuals(images, np.array([[0, 1], [0, 0]]), np.array([True, True]))
    assert found == pytest.approx([expected, 0], abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_hardly_any_pictures_are_no_problem(count):
    assert near_duplicates(thumbnails(count), np.zeros(count, bool)) == []


def test_a_thousand_flat_pictures_have_no_copies():
    flat = np.repeat(np.arange(250, dtype=np.uint8), 4)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    assert near_duplicates(flat, np.zeros(len(flat), bool)) == []


def test_the_same_pictures_always_make_the_same_groups():
    images = np.concatenate([thumbnails(300, 2), noisy(thumbnails(300, 2)[:60], 3)])
    assert near_duplicates(images, np.zeros(360, bool)) == near_duplicates(images, np.zeros(360, bool))
