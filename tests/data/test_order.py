"""The sample order and every random number are pure functions of (seed, epoch, index, step, rank)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.order import batch_at, epoch_order, sample_generator, step_seed, steps_per_epoch

counts = st.integers(1, 300)
seeds = st.integers(0, 2**64 - 1)
lawful = settings(max_examples=60, deadline=None, derandomize=True)


@lawful
@given(counts, seeds, st.integers(0, 10**6))
def test_an_epoch_shows_every_sample_once(num_samples, seed, epoch):
    assert sorted(epoch_order(num_samples, seed, epoch)) == list(range(num_samples))


@lawful
@given(counts, st.integers(1, 64), seeds, st.integers(0, 5))
def test_the_steps_of_an_epoch_show_no_sample_twice(num_samples, batch_size, seed, epoch):
    steps = steps_per_epoch(num_samples, batch_size)
    batches = [batch_at(num_samples, batch_size, seed, epoch * steps + place) for place in range(steps)]
    assert {found for found, _ in batches} == {epoch}
    seen = np.concatenate([positions for _, positions in batches])
    assert len(seen) == len(set(seen)) == min(num_samples, steps * batch_size)
    assert len(seen) > num_samples - batch_size


@lawful
@given(counts, st.integers(1, 64), seeds, st.integers(0, 50), st.integers(1, 9))
def test_the_ranks_partition_the_batch(num_samples, batch_size, seed, step, num_ranks):
    _, whole = batch_at(num_samples, batch_size, seed, step)
    parts = [batch_at(num_samples, batch_size, seed, step, rank, num_ranks)[1] for rank in range(num_ranks)]
    assert sorted(np.concatenate(parts)) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@lawful
@given(seeds, st.integers(0, 1000), st.integers(0, 10**7))
def test_a_sample_draws_the_same_numbers_whoever_asks(seed, epoch, index):
    first = sample_generator(seed, epoch, index).random(5)
    sample_generator(seed, epoch, index + 1).random(1000)
    assert np.array_equal(first, sample_generator(seed, epoch, index).random(5))


def test_neighbours_in_seed_epoch_and_index_draw_unrelated_numbers():
    places = [(seed, epoch, index) for seed in range(6) for epoch in range(6) for index in range(30)]
    draws = np.array([sample_generator(*place).random(8) for place in places])
    assert len(np.unique(draws)) == draws.size
    assert abs(draws.mean() - 0.5) < 0.02
    correlations = np.corrcoef(draws.T)[np.triu_indices(8, 1)]
    assert np.abs(correlations).max() < 0.15


def test_steps_and_streams_have_seeds_of_their_own():
    found = {step_seed(seed, step, stream) for seed in range(5) for step in range(50) for stream in range(3)}
    assert len(found) == 5 * 50 * 3
    assert all(0 <= value < 2**63 for value in found)
    assert step_seed(1, 2) != sample_generator(1, 0, 2).bit_generator.random_raw() >> 1


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_another_process_finds_the_same_numbers():
    program = (
        "from vitrail.data.order import *\n"
        "print(batch_at(100, 7, 3, 40)[1].tolist(), step_seed(3, 40), sample_generator(3, 2, 9).integers(1000))"
    )
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    ours = (batch_at(100, 7, 3, 40)[1].tolist(), step_seed(3, 40), sample_generator(3, 2, 9).integers(1000))
    assert theirs.strip() == " ".join(map(str, ours))


def test_the_stream_stays_what_it_was():
    # Frozen values: a change here means that no earlier run can be resumed or repeated.
    assert epoch_order(8, 0, 0).tolist() == [6, 7, 2, 1, 3, 5, 0, 4]
    assert step_seed(0, 0) == 4382569712675524041


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((10, 4, -1, 0), "seed -1"), ((10, 4, 0, -1), "step -1"), ((0, 4, 0, 0), "num_samples 0"), ((10, 0, 0, 0), "0")],
)
def test_impossible_places_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        batch_at(*arguments)


def test_a_rank_outside_the_ranks_is_refused():
    with pytest.raises(ValueError, match="rank 2"):
        batch_at(10, 4, 0, 0, rank=2, num_ranks=2)
