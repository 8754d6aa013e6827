"""What of a run on this machine can only be measured: seconds of its parts, and the memory of the process around it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vitrail.data.loader import Batch, Loader
from vitrail.data.sources.base import ArraySource, Source
from vitrail.data.split import TRAIN, VALIDATION, make_splits
from vitrail.errors import RunError
from vitrail.models.kinds import count_macs
from vitrail.objectives.config import SupervisedConfig
from vitrail.tasks.begin import TRIAL_SECONDS
from vitrail.tasks.prepare import PreparedData
from vitrail.tasks.pretraining import NUM_EXAMINED, PretrainingRun
from vitrail.tasks.run import Run
from vitrail.training.config import EVALUATION_BATCH, TrainConfig
from vitrail.training.events import Events
from vitrail.training.precision import run_trial
from vitrail.training.run_folder import METRICS_FILE
from vitrail.training.run_state import save_checkpoint

# Multiply-adds of the forward pass of the largest update that is timed whole, some seconds of a core; of a larger one
# fewer pictures are timed, which take as long each.
_LARGEST = 5e10
_INTERVAL = 0.02  # seconds between two looks at a process


@dataclass(frozen=True)
class Rehearsal:
    """Seconds and bytes, each measured once."""

    config: TrainConfig  # precision and threads settled
    seconds_per_step: float  # loading included
    seconds_per_evaluated: float  # of one validation picture on the way
    seconds_per_tested: float  # of one picture when the run is over; 0 where nothing is tested then
    checkpoint_seconds: float
    begin_seconds: float  # from building the model to the first update
    worker_bytes: int  # of the largest process of the loader; 0 where there is none
    how: str


def rehearse(config: TrainConfig, source: Source | None) -> Rehearsal:
    """Do what a run does, in little: updates, an evaluation, a checkpoint.

    Args:
        source: its pictures, read as the run will read them; None: made-up ones in memory, which need no decoding.
    """
    largest = max(1, int(_LARGEST / count_macs(config.model)))
    micro_batch = config.batch_size // config.accumulation_steps
    count = config.batch_size if config.batch_size <= largest else min(micro_batch, largest)
    small = replace(
        config, batch_size=count, accumulation_steps=1 if count <= micro_batch else config.accumulation_steps
    )
    is_supervised = isinstance(config.objective, SupervisedConfig)
    prepared = (
        _made_up(small, count if is_supervised else NUM_EXAMINED) if source is None else _unchecked(small, source)
    )
    threads = torch.get_num_threads()
    with Events() as events, tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        run = (Run if is_supervised else PretrainingRun)(small, prepared, events)
        built = time.monotonic()
        trial = run_trial(run.state.objective, run.loader, small, TRIAL_SECONDS)
        torch.set_num_threads(trial.num_threads)
        tried = time.monotonic()
        evaluated = run.time_evaluation(trial.precision) / len(run.validation.indices)
        tested = run.time_evaluation() / len(run.validation.indices) if is_supervised else 0.0
        saving = time.monotonic()
        save_checkpoint(Path(folder), run.state)
        saved = time.monotonic()
        worker = _largest_worker(run.loader)
    torch.set_num_threads(threads)
    ratio = config.batch_size / count
    threads_used = "1 thread" if trial.num_threads == 1 else f"{trial.num_threads} threads"
    pictures = "made-up pictures" if source is None else f"pictures of {source.name}"
    of = "" if ratio == 1 else f" with {count} of its {config.batch_size} pictures"
    return Rehearsal(
        config=trial.settle(config),
        seconds_per_step=trial.seconds_per_step * ratio,
        seconds_per_evaluated=evaluated,
        seconds_per_tested=tested,
        checkpoint_seconds=saved - saving,
        begin_seconds=(built - begin) + max(TRIAL_SECONDS, (tried - built) * ratio),
        worker_bytes=worker,
        how=f"{trial.num_steps} updates{of} timed here on {pictures}, {threads_used}",
    )


def _made_up(config: TrainConfig, count: int) -> PreparedData:
    """`count` pictures to train on and a batch to evaluate."""
    model, total = config.model, count + EVALUATION_BATCH
    # Areas of 8 pixels, not noise: the mean colours of noise are all the same, which nothing can be learned from.
    shape = (total, -(-model.image_size[0] // 8), -(-model.image_size[1] // 8), model.in_channels)
    areas = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = areas.repeat(8, axis=1).repeat(8, axis=2)[:, : model.image_size[0], : model.image_size[1]]
    classes = tuple(str(number) for number in range(max(1, model.num_classes)))
    splits = np.where(np.arange(total) < count, TRAIN, VALIDATION).astype(np.int8)
    source = ArraySource("made-up", "", pixels, classes, np.arange(total, dtype=np.int64) % len(classes), splits)
    return PreparedData(source, splits, fingerprint="", check={})


def _unchecked(config: TrainConfig, source: Source) -> PreparedData:
    """The pictures in splits of the run's sizes; copies are not looked for."""
    count = len(source)
    splits = make_splits(
        labels=source.labels,
        given=source.splits,
        groups=np.arange(count),
        usable=np.ones(count, dtype=bool),
        num_classes=len(source.classes),
        config=config.data,
    )
    return PreparedData(source, splits, fingerprint="", check={})


@dataclass(frozen=True)
class SmallestRun:
    """A whole `vitrail train` of one update on the built-in digits: what every run takes, whatever it trains."""

    seconds: float  # but its trial and its training
    update_bytes: int  # at most, up to its first update
    peak_bytes: int  # at most, evaluation and report included


def time_smallest_run() -> SmallestRun:
    """Raises RunError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--schedule.steps", "1", "--precision", "float32", "--num-threads", "1", "--json"]
        command = [sys.executable, "-m", "vitrail", "train", "digits_vit", "--data", "digits", *options]
        with open(f"{folder}/answer", "w+", encoding="utf-8") as answer:
            begin = time.monotonic()
            process = subprocess.Popen([*command, "--out", f"{folder}/run"], stdout=answer, stderr=subprocess.DEVNULL)
            update_bytes = wait_for_peak(process, Path(folder, "run", METRICS_FILE))
            peak = max(update_bytes, wait_for_peak(process))
            seconds = time.monotonic() - begin
            answer.seek(0)
            printed = answer.read()
    if process.returncode:
        raise RunError(f"a run of one update on the digits failed; see what it says: {' '.join(command)}")
    phases = json.loads(printed)["seconds"]
    return SmallestRun(seconds - phases["trial"] - phases["training"], update_bytes, peak)


def wait_for_peak(process: subprocess.Popen[Any], until: Path | None = None) -> int:
    """Wait for a process to end, or for a file to appear; its peak resident bytes, 0 where the system does not tell.

    Looked at while it works: what `wait4` tells afterwards is never less than what its parent had when it began.
    """
    peak = 0
    while process.poll() is None and (until is None or not until.exists()):
        peak = max(peak, _peak_bytes(process.pid))
        time.sleep(_INTERVAL)
    return peak


def _peak_bytes(process_id: int) -> int:
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def _largest_worker(loader: Loader) -> int:
    """Peak bytes of the largest of the loader's processes, which have made a batch each."""
    if not loader.num_workers:
        return 0
    with contextlib.closing(cast("Generator[Batch]", loader.stream(0, 2 * loader.num_workers))) as batches:
        for _ in zip(range(loader.num_workers), batches, strict=False):
            pass
        return max(_peak_bytes(child.pid or 0) for child in multiprocessing.active_children())
