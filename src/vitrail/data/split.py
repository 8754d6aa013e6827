"""Which sample is for training, which for choosing (validation) and which for the last word (test)."""

from __future__ import annotations

import numpy as np

from vitrail.data.config import DataConfig

UNASSIGNED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")  # index = number of the split
SPLITS_BY_NAME = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}


def make_splits(
    labels: np.ndarray,
    given: np.ndarray,
    groups: np.ndarray,
    usable: np.ndarray,
    num_classes: int,
    config: DataConfig,
) -> np.ndarray:
    """Complete the splits: what the source gives stays, what it does not give is taken from the rest of each class.

    A validation split is made where the source gives none, a test split likewise, from the samples that the source
    puts into train or nowhere. Each takes its share of each class, rounded, and at least one sample of a class of
    three or more. Of two samples one is for training and one for testing; a single one is for training.

    The samples of a group stay together, with the class of the first of them; a group that is larger than what a
    split still needs goes to train. Groups are taken in the order of a hash of their number and the seed, so with
    numbers that depend on the pictures alone (as `examine` gives them) a new picture leaves nearly all others where
    they were.

    Args:
        labels: (N,) int64.
        given: (N,) int8, of the source.
        groups: (N,) int64; samples with the same number show the same picture.
        usable: (N,) bool.
        config: its shares and seed.
    Returns:
        (N,) int8; UNASSIGNED where not usable and only there.
    """
    splits = np.where(usable, given, UNASSIGNED).astype(np.int8)
    pool = np.flatnonzero(usable & ((given == UNASSIGNED) | (given == TRAIN)))
    splits[pool] = TRAIN
    if len(pool) == 0:
        return splits
    counts = np.bincount(labels[pool], minlength=num_classes)
    test, validation = _wanted(
        counts,
        0.0 if (splits == TEST).any() else config.test_share,
        0.0 if (splits == VALIDATION).any() else config.validation_share,
    )
    _, first, members, sizes = np.unique(groups[pool], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(_scatter(groups[pool[first]], config.seed), kind="stable")
    classes = labels[pool[first]]
    chosen = np.full(len(first), TRAIN, dtype=np.int8)
    left_test, left_validation = test.tolist(), validation.tolist()
    for group, label, size in zip(order.tolist(), classes[order].tolist(), sizes[order].tolist(), strict=True):
        if size <= left_test[label]:
            left_test[label] -= size
            chosen[group] = TEST
        elif size <= left_validation[label]:
            left_validation[label] -= size
            chosen[group] = VALIDATION
    splits[pool] = chosen[members]
    return splits


def _wanted(counts: np.ndarray, test_share: float, validation_share: float) -> tuple[np.ndarray, np.ndarray]:
    """How many samples of each class go to test and to validation: (classes,) int64 each."""
    test = np.zeros_like(counts) if test_share == 0 else np.maximum(np.rint(counts * test_share).astype(np.int64), 1)
    test = np.minimum(test, np.maximum(counts - 1, 0))
    validation = np.zeros_like(counts)
    if validation_share > 0:
        validation = np.maximum(np.rint(counts * validation_share).astype(np.int64), 1)
    validation = np.minimum(validation, np.maximum(counts - 1 - test, 0))
    return test, validation


def _scatter(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 for each number: the finaliser of SplitMix64 (Steele et al. 2014), once for the seed."""
    seed_mixed = _splitmix(np.array([seed % 2**64], dtype=np.uint64))
    return _splitmix(numbers.astype(np.uint64) ^ seed_mixed)


def _splitmix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
