"""float32 or bfloat16, one thread or all, and how long a step takes: measured on the run's own work, not assumed."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from vitrail.data.loader import Batch, Loader
from vitrail.objectives.base import Objective
from vitrail.training.config import TrainConfig
from vitrail.training.fused_block import can_fuse, set_fused
from vitrail.training.optimizer import build_optimizer, clip_gradients
from vitrail.training.step import accumulate_gradients, compiled

Precision = Literal["float32", "bfloat16"]
# bfloat16 rounds to 3 digits, so it has to earn its place.
_MIN_GAIN = 1.1
_MAX_REPEATS = 9


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a forward pass runs: mixed precision for "bfloat16", nothing for "float32".

    Weights, gradients and optimizer state are float32 in both; bfloat16 has float32's range and needs no loss scaling.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    raise ValueError(f"precision {precision!r} is neither float32 nor bfloat16; 'auto' is resolved by a trial first")


@dataclass(frozen=True)
class Trial:
    """What a trial measured, in seconds of wall time."""

    precision: Precision  # as configured, or the chosen one where the config says "auto"
    step_seconds: dict[Precision, float]  # median of one update without loading pictures, by precision tried
    num_threads: int  # as configured, or the faster of one and all
    row_seconds: dict[int, float]  # mean of one update in a row of them, loading included, by threads tried
    num_steps: int  # how many went into the fastest row
    fused_blocks: bool  # as configured, or whether updates were faster with them

    def settle(self, config: TrainConfig) -> TrainConfig:
        """The config with what the trial found in place of what it left open."""
        return replace(config, precision=self.precision, num_threads=self.num_threads, fused_blocks=self.fused_blocks)

    @property
    def seconds_per_step(self) -> float:
        """Wall seconds of one update, loading included, as the run will make it."""
        return self.row_seconds[self.num_threads]

    def describe(self) -> str:
        """One sentence for the log."""
        tried = ", ".join(f"{name} {seconds * 1000:.3g} ms" for name, seconds in self.step_seconds.items())
        rows = ", ".join(f"{count} {seconds * 1000:.3g} ms" for count, seconds in self.row_seconds.items())
        return (
            f"trial: an update on one thread takes {tried}: {self.precision}{', fused' if self.fused_blocks else ''};"
            f" with loading, by threads, {rows}: {self.num_threads}"
        )


def run_trial(objective: Objective, loader: Loader, config: TrainConfig, seconds: float = 6.0) -> Trial:
    """Time a few updates on copies: weights, random numbers and the order of the run stay as they are.

    Args:
        seconds: about how long it may take; at least one update of each candidate is always timed.

    Where other programs keep the cores busy, two threads that wait for each other can take ten times as long as one.
    """
    candidates: tuple[Precision, ...] = ("float32", "bfloat16")
    if config.precision != "auto":
        candidates = (config.precision,)
    device = objective.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _restored_threads():
        all_threads = torch.get_num_threads()
        thread_counts = _thread_candidates(config, device, all_threads)
        torch.set_num_threads(thread_counts[0])
        update = _Update(copy.deepcopy(objective).train(), config)
        batch = next(loader.stream(0, 1))
        times = _time_in_turns(update, batch, candidates, seconds / 3)
        medians = {name: statistics.median(times[name]) for name in candidates}
        chosen: Precision = candidates[0]
        if len(candidates) == 2 and medians["float32"] >= _MIN_GAIN * medians["bfloat16"]:
            chosen = "bfloat16"
        is_fused = _choose_fused(update, batch, chosen, seconds / 3)
        rows: dict[int, tuple[float, int]] = {}
        for count in thread_counts:
            torch.set_num_threads(count)
            # Time for the loader's workers to start is not in the mean: the first updates are not counted.
            rows[count] = _time_in_a_row(update, loader, chosen, seconds / 3)
        fastest = min(rows, key=lambda count: rows[count][0])
    return Trial(chosen, medians, fastest, {count: row[0] for count, row in rows.items()}, rows[fastest][1], is_fused)


def _choose_fused(update: _Update, batch: Batch, precision: Precision, seconds: float) -> bool:
    """Whether blocks are fused: as configured, or where it is the faster way; `update` is left so."""
    is_fused = update.config.fused_blocks
    if is_fused is None:
        objective = update.objective
        is_open = precision == "bfloat16" and not update.config.compile and objective.device.type == "cpu"
        is_fused = is_open and can_fuse(objective) and _is_faster_fused(update, batch, seconds)
    set_fused(update.objective, is_fused)
    return is_fused


def _is_faster_fused(update: _Update, batch: Batch, seconds: float) -> bool:
    best = {True: math.inf, False: math.inf}
    start = time.perf_counter()
    for repeat in range(_MAX_REPEATS):
        for way in best:
            set_fused(update.objective, way)
            begin = time.perf_counter()
            update(batch, "bfloat16")
            if repeat:  # the first one sets up memory
                best[way] = min(best[way], time.perf_counter() - begin)
        if repeat and time.perf_counter() - start > seconds:
            break
    return best[True] < best[False]


def _thread_candidates(config: TrainConfig, device: torch.device, all_threads: int) -> tuple[int, ...]:
    if config.num_threads is not None:
        return (config.num_threads,)
    if device.type != "cpu" or all_threads == 1:
        return (all_threads,)
    return (1, all_threads)


@contextlib.contextmanager
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Update:
    """One update of a copy, as the loop makes it."""

    def __init__(self, objective: Objective, config: TrainConfig) -> None:
        self.objective = objective
        self.config = config
        self.forward = compiled(objective, config.compile)
        self.optimizer = build_optimizer(objective, config.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Batch, precision: Precision) -> None:
        if not len(batch.indices):
            return
        inputs = self.objective.prepare(batch, self.generator)
        parts = self.config.accumulation_steps
        accumulate_gradients(self.forward, inputs, 0, parts, autocast(self.objective.device, precision))
        clip_gradients(self.parameters, self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.objective.device.type == "cuda":
            torch.cuda.synchronize(self.objective.device)


def _time_in_turns(
    update: _Update, batch: Batch, candidates: tuple[Precision, ...], seconds: float
) -> dict[str, list[float]]:
    """Alternating, so that a machine that grows slower or faster does so for both."""
    for precision in candidates:
        update(batch, precision)  # the first one sets up kernels and memory
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for _ in range(_MAX_REPEATS):
        for precision in candidates:
            begin = time.perf_counter()
            update(batch, precision)
            times[precision].append(time.perf_counter() - begin)
        if time.perf_counter() - start > seconds:
            break
    return times


def _time_in_a_row(update: _Update, loader: Loader, precision: Precision, seconds: float) -> tuple[float, int]:
    """(mean seconds of an update with its loading, number of updates in the mean)."""
    not_counted, most = 2 + 2 * loader.num_workers, 200
    begin, done = time.perf_counter(), 0
    for number, batch in enumerate(_closing(loader.stream(0, not_counted + most))):
        update(batch, precision)
        if number < not_counted:
            begin = time.perf_counter()
            continue
        done += 1
        if time.perf_counter() - begin > seconds:
            break
    return (time.perf_counter() - begin) / max(1, done), done


def _closing(batches: Iterator[Batch]) -> Iterator[Batch]:
    """`batches`, whose workers end with it."""
    with contextlib.closing(batches):  # type: ignore[type-var]
        yield from batches
