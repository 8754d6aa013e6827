"""Which 1,000 pictures of a task VTAB-1k learns from, and which it is scored on (Zhai et al. 2019, section 3).

The benchmark takes "the first 800" and "the first 200" in the order in which TensorFlow Datasets stores a split, which
is a shuffled one that no other reader has. Here the order is that of a hash of the picture's name and a seed: as
arbitrary, and the same on every machine. So the 1,000 are others than the paper's, drawn in the same way; the test
pictures are the same where the publisher divides them, and drawn in the same numbers where nobody did.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from vitrail.data.sources.base import Source
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.data.vtab import NUM_TRAIN, NUM_VALIDATION, VtabTask

Rows = npt.NDArray[np.int64]


def cut(source: Source, task: VtabTask, seed: int = 0) -> npt.NDArray[np.int8]:
    """The split of each picture of a task's data set; UNASSIGNED for those that have no part in VTAB-1k.

    Where there are fewer than 1,000 pictures to learn from, a fifth of them validates.

    Returns:
        (N,) int8: 800 in TRAIN, 200 in VALIDATION, the whole test split in TEST.
    """
    ranks = np.array([_rank(source.key(index), seed) for index in range(len(source))], dtype=np.uint64)
    order = np.argsort(ranks, kind="stable")
    given = source.splits
    if (given == UNASSIGNED).all():
        given = _divide(source.labels, order, task)
    by_split = {split: order[given[order] == split] for split in (TRAIN, VALIDATION, TEST)}
    pool, test = by_split[TRAIN], by_split[TEST]
    if task.validation_from == "test":
        half = len(test) // 2
        others, test = test[:half], test[half:]
    else:
        others = by_split[VALIDATION] if task.validation_from == "validation" else np.empty(0, np.int64)
    num_train = NUM_TRAIN if len(pool) >= NUM_TRAIN + NUM_VALIDATION else round(0.8 * len(pool))
    train = pool[:NUM_TRAIN] if len(others) else pool[:num_train]
    validation = (others if len(others) else pool[num_train:])[:NUM_VALIDATION]
    splits = np.full(len(source), UNASSIGNED, dtype=np.int8)
    for rows, split in ((train, TRAIN), (validation, VALIDATION), (test, TEST)):
        splits[rows] = split
    return splits


def _divide(labels: Rows, order: Rows, task: VtabTask) -> npt.NDArray[np.int8]:
    """Training and test splits of the benchmark's size, or share, where the publisher makes none."""
    splits = np.full(len(order), TEST, dtype=np.int8)
    if task.train_per_class is not None:
        for label in np.unique(labels):
            splits[order[labels[order] == label][: task.train_per_class]] = TRAIN
        return splits
    share = task.num_train_and_validation / (task.num_train_and_validation + task.num_test)
    splits[order[: round(share * len(order))]] = TRAIN
    return splits


def _rank(key: str, seed: int) -> int:
    text = f"{seed}:{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
