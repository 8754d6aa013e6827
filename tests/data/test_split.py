"""Splits are stratified, keep copies on one side, respect what is given and hardly move when pictures are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from vitrail.data.config import DataConfig
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION, make_splits


def split(labels, given=None, groups=None, usable=None, **config):
    labels = np.asarray(labels, dtype=np.int64)
    given = np.full(len(labels), UNASSIGNED, np.int8) if given is None else np.asarray(given, np.int8)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups, np.int64)
    usable = np.ones(len(labels), bool) if usable is None else np.asarray(usable)
    num_classes = int(labels.max()) + 1 if len(labels) else 1
    return make_splits(labels, given, groups, usable, num_classes, DataConfig("x", **config))


@st.composite
def data_sets(draw):
    size = draw(st.integers(1, 80))
    numbers = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = numbers.integers(0, draw(st.integers(1, 6)), size)
    groups = numbers.integers(0, draw(st.integers(1, 2 * size)), size)
    usable = numbers.random(size) < 0.9
    given = numbers.choice([UNASSIGNED, TRAIN, VALIDATION, TEST], size) if draw(st.booleans()) else None
    return labels, given, groups, usable, draw(st.integers(0, 99))


lawful = settings(max_examples=150, deadline=None, derandomize=True)


@lawful
@given(data_sets())
def test_every_usable_sample_is_on_one_side_and_no_other(case):
    labels, given_splits, groups, usable, seed = case
    splits = split(labels, given_splits, groups, usable, seed=seed)
    assert np.array_equal(splits == UNASSIGNED, ~usable)


@lawful
@given(data_sets())
def test_copies_stay_on_one_side(case):
    labels, _, groups, usable, seed = case
    splits = split(labels, None, groups, usable, seed=seed)
    for group in np.unique(groups[usable]):
        assert len(set(splits[usable & (groups == group)])) == 1


@lawful
@given(data_sets())
def test_given_validation_and_test_pictures_stay_where_they_are(case):
    labels, given_splits, groups, usable, seed = case
    if given_splits is None:
        return
    splits = split(labels, given_splits, groups, usable, seed=seed)
    for side in (VALIDATION, TEST):
        held = usable & (given_splits == side)
        assert (splits[held] == side).all()
        if held.any():
            assert (splits[usable & ~held] != side).all()


@lawful
@given(data_sets())
def test_no_split_takes_more_than_its_share_of_a_class(case):
    labels, _, _, usable, seed = case
    splits = split(labels, None, None, usable, seed=seed, test_share=0.2, validation_share=0.3)
    for label in np.unique(labels[usable]):
        of_class = splits[usable & (labels == label)]
        size = len(of_class)
        assert (of_class == TRAIN).any()
        if size >= 3:
            assert (of_class == TEST).sum() == min(max(1, np.rint(0.2 * size)), size - 1)
            assert 1 <= (of_class == VALIDATION).sum() <= max(1, np.rint(0.3 * size))


def test_one_picture_trains_two_train_and_test_three_do_all():
    splits = split([0, 1, 1, 2, 2, 2])
    assert splits[0] == TRAIN
    assert sorted(splits[1:3]) == [TRAIN, TEST]
    assert sorted(splits[3:]) == [TRAIN, VALIDATION, TEST]


def test_the_shares_are_those_of_scikit_learn():
    numbers = np.random.default_rng(5)
    labels = numbers.choice(7, 3000, p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.04, 0.01])
    ours = split(labels, test_share=0.15, validation_share=0.2)
    (_, theirs), *_ = StratifiedShuffleSplit(1, test_size=0.15, random_state=0).split(labels, labels)
    assert np.abs(np.bincount(labels[ours == TEST]) - np.bincount(labels[theirs], minlength=7)).max() <= 1
    (_, theirs), *_ = StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(labels, labels)
    assert np.abs(np.bincount(labels[ours == VALIDATION]) - np.bincount(labels[theirs], minlength=7)).max() <= 1


def test_a_new_picture_leaves_the_others_where_they_were():
    numbers = np.random.default_rng(1)
    labels, groups = numbers.integers(0, 5, 1000), numbers.integers(0, 2**63, 1000)
    before = split(labels, groups=groups)
    after = split(np.insert(labels, 400, 2), groups=np.insert(groups, 400, 12345))
    assert (np.delete(after, 400) != before).sum() <= 2


def test_the_order_of_the_listing_does_not_matter():
    numbers = np.random.default_rng(2)
    labels, groups = numbers.integers(0, 5, 500), numbers.integers(0, 2**63, 500)
    order = numbers.permutation(500)
    assert np.array_equal(split(labels, groups=groups)[order], split(labels[order], groups=groups[order]))


def test_seeds_split_differently_and_each_always_the_same():
    labels = np.zeros(400, np.int64)
    drawn = {tuple(split(labels, seed=seed)) for seed in range(10)}
    assert len(drawn) == 10
    assert np.array_equal(split(labels, seed=3), split(labels, seed=3))
    overlap = (split(labels, seed=1) == TEST) & (split(labels, seed=2) == TEST)
    assert overlap.sum() < 25  # chance gives 60 * 0.15 = 9


@pytest.mark.parametrize(("side", "missing"), [(VALIDATION, TEST), (TEST, VALIDATION)])
def test_a_missing_split_is_carved_from_train(side, missing):
    given_splits = np.repeat([TRAIN, side], [80, 20])
    splits = split(np.tile([0, 1], 50), given_splits)
    assert (splits[80:] == side).all()
    assert set(splits[:80]) == {TRAIN, missing}
    assert (splits == missing).sum() == 12


def test_a_group_larger_than_the_share_stays_in_train():
    splits = split(np.zeros(20, np.int64), groups=np.r_[np.zeros(10), np.arange(1, 11)])
    assert set(splits[:10]) == {TRAIN}
    assert {TEST, VALIDATION} <= set(splits[10:])


def test_no_share_means_no_split():
    assert set(split(np.tile([0, 1, 2], 20), test_share=0.0)) == {TRAIN, VALIDATION}


def test_nothing_to_split_is_split_into_nothing():
    assert split([0, 0], usable=[False, False]).tolist() == [UNASSIGNED, UNASSIGNED]
