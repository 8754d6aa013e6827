"""Which sample comes when, and with which random numbers: pure functions, so there is nothing to save or to lose.

Every number comes from Philox, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): the seed is the key and (epoch, index) is the place in the stream, so any sample of any epoch is reached
directly. NumPy keeps the raw stream of Philox the same over its releases; orders use that raw stream alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vitrail.errors import ConfigError

# The second half of the key keeps the three uses of one seed apart.
_SAMPLES, _ORDERS, _STEPS = 1, 2, 3


def _philox(use: int, seed: int, first: int, second: int) -> np.random.Philox:
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed} is not between 0 and 2**64 - 1")
    if first < 0 or second < 0:
        raise ValueError(f"the place ({first}, {second}) in the stream of random numbers must not be negative")
    # The lowest word counts the blocks drawn, so two places never run into each other.
    counter = np.array([0, first, second, 0], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, use], dtype=np.uint64), counter=counter)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch, whichever worker, batch or run draws them."""
    return np.random.Generator(_philox(_SAMPLES, seed, index, epoch))


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """The seed, below 2**63, of what step `step` draws as a whole (dropout, mixup); `stream` tells uses apart."""
    return int(_philox(_STEPS, seed, step, stream).random_raw()) >> 1


@lru_cache(maxsize=2)  # sorting a million numbers at every step would cost more than the step
def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..num_samples-1, (num_samples,) int64, read-only."""
    order = np.argsort(_philox(_ORDERS, seed, epoch, 0).random_raw(num_samples), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Whole batches in an epoch: the rest sits out until the next shuffle. Fewer samples than a batch make one step."""
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"num_samples {num_samples} and batch_size {batch_size} must be at least 1")
    return max(1, num_samples // batch_size)


def batch_at(
    num_samples: int, batch_size: int, seed: int, step: int, rank: int = 0, num_ranks: int = 1
) -> tuple[int, np.ndarray]:
    """The batch that step number `step` (from 0) trains on.

    Args:
        batch_size: samples of the whole batch, over all ranks.
        rank: which of `num_ranks` processes asks; each gets every num_ranks-th sample, so that together they hold
            the batch once, and a run with other ranks trains on the same batches.
    Returns:
        (epoch, positions): the epoch of the step, and (about batch_size / num_ranks,) int64 in 0..num_samples-1.
    """
    if not 0 <= rank < num_ranks:
        raise ValueError(f"rank {rank} is not between 0 and num_ranks {num_ranks} - 1")
    if step < 0:
        raise ValueError(f"step {step} is negative")
    epoch, place = divmod(step, steps_per_epoch(num_samples, batch_size))
    batch = epoch_order(num_samples, seed, epoch)[place * batch_size : (place + 1) * batch_size]
    return epoch, batch[rank::num_ranks]
