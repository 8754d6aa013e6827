"""Pictures in, batches out: the same batches, bit for bit, with any number of workers and from any first step.

A batch is a pure function of (source, transform, seed, step), so a worker makes whole batches and the loader only puts
them in order. The workers are processes of their own pool rather than a torch `DataLoader`:

- They are spawned, not forked: a process in which torch runs threads must not fork (Python 3.12 warns, and a lock that
  some thread held stays locked in the child). This file imports torch only where a batch becomes tensors, which is in
  the parent, so that a worker needs NumPy and Pillow alone: it starts in a fraction of the time and the memory.
- A worker that dies is noticed at once and where the batch is asked for, as a `DataError`.
- A worker ends when its parent does, however that ended.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from vitrail.data.config import LoaderConfig, Preprocessing
from vitrail.data.images import Picture
from vitrail.data.order import batch_at, sample_generator, steps_per_epoch
from vitrail.data.pixel_cache import PixelCache
from vitrail.data.sources.base import Source
from vitrail.errors import DataError, ImageError

if TYPE_CHECKING:
    import torch

DEFAULT_CONFIG = LoaderConfig()
MAX_WORKERS = 8  # chosen without being told: enough for one accelerator, and each takes memory
WORTH_A_POOL = 512  # pictures: fewer are loaded sooner than a worker starts
BATCHES_AHEAD = 2  # for each worker: one being made, one waiting


class Transform(Protocol):
    """A pure function of (picture, generator). Picklable."""

    preprocessing: Preprocessing

    def __call__(self, picture: Picture, generator: np.random.Generator) -> np.ndarray:
        """(C, H, W) uint8."""


@dataclass(frozen=True)
class Batch:
    """Pictures that can be read, with their own labels. May be empty."""

    images: torch.Tensor  # (B, C, H, W) uint8
    labels: torch.Tensor  # (B,) int64
    indices: torch.Tensor  # (B,) int64, of the source
    epoch: int
    broken: tuple[tuple[int, str], ...] = ()  # (index of the source, message) of the pictures that are missing


@dataclass(frozen=True)
class _Plan:
    epoch: int
    indices: np.ndarray  # (B,) int64, of the source


@dataclass(frozen=True)
class _Made:
    images: np.ndarray
    indices: np.ndarray
    broken: tuple[tuple[int, str], ...]


class Loader:
    """Batches of the samples `indices` of `source`.

    Args:
        indices: (N,) int64, of the source: the split to load.
        batch_size: samples a batch. An epoch of `stream` has whole batches only; what is left over sits out until the
            next shuffle. Fewer samples than batch_size make one smaller batch an epoch.
        seed: of the order and of every random choice of the transform.
        config: its `cache` "memory" keeps each picture as the decoder gave it, once for each of the scales (1, 1/2,
            1/4, 1/8 of a JPEG's sides) that the transform asked for: the batches stay the same bit for bit, and no
            picture is decoded twice at one scale. It takes 3 bytes a pixel and at most 1.33 times the full size of
            all pictures; each worker keeps its own, so it pays with 0 or 1 of them. "disk" keeps the same in files that
            all workers and later runs share (`pixel_cache.py`); it takes 3 bytes a pixel too.
        rank, num_ranks: `stream` yields this process's share of each batch.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        config: LoaderConfig = DEFAULT_CONFIG,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        if len(indices) == 0:
            raise DataError(f"{source.name}: there is no picture to load")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = source.labels
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.num_ranks = rank, num_ranks
        self.num_workers = _choose_num_workers(source, self.indices, config)
        self._may_go_without = config.num_workers is None
        self.steps_per_epoch = steps_per_epoch(len(self.indices), batch_size)
        disk = PixelCache.open(int(config.cache_gigabytes * 1e9)) if config.cache == "disk" else None
        self._maker = _Maker(source, transform, seed, keep=config.cache == "memory", disk=disk)

    def stream(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """The batches of the steps first_step to end_step - 1, shuffled anew each epoch, from one pool of workers.

        Raises:
            DataError: a worker died.
        """
        return self._batches((self._shuffled(step) for step in range(first_step, end_step)), self.num_workers)

    def once(self, threads: int = 0) -> Iterator[Batch]:
        """Every sample once, in the order of `indices`; the last batch may be smaller. Raises as `stream`.

        Args:
            threads: make batches in so many threads of this process, in place of worker processes, at most two
                batches ahead for each. Decoders let other threads run, and a thread needs no start; but Python itself
                runs in one at a time, so a training step, which is full of Python, is better off with processes.
        """
        starts = range(0, len(self.indices), self.batch_size)
        plans = (_Plan(0, self.indices[start : start + self.batch_size]) for start in starts)
        if threads > 0:
            return self._in_threads(plans, threads)
        few = self._may_go_without and len(self.indices) < WORTH_A_POOL
        return self._batches(plans, 0 if few else self.num_workers)

    def _shuffled(self, step: int) -> _Plan:
        epoch, positions = batch_at(len(self.indices), self.batch_size, self.seed, step, self.rank, self.num_ranks)
        return _Plan(epoch, self.indices[positions])

    def _batches(self, plans: Iterable[_Plan], num_workers: int) -> Iterator[Batch]:
        if num_workers == 0:
            for plan in plans:
                yield self._tensors(plan, self._maker(plan))
            return
        with _Pool(self._maker, num_workers) as pool:
            for plan, made in pool.in_order(plans):
                yield self._tensors(plan, made)

    def _in_threads(self, plans: Iterable[_Plan], threads: int) -> Iterator[Batch]:
        executor = ThreadPoolExecutor(threads, "decoding")
        try:
            for plan, made in _in_order(executor, self._maker, plans, threads * BATCHES_AHEAD):
                yield self._tensors(plan, made)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _tensors(self, plan: _Plan, made: _Made) -> Batch:
        import torch

        return Batch(
            images=torch.from_numpy(made.images),
            labels=torch.from_numpy(self.labels[made.indices].astype(np.int64)),
            indices=torch.from_numpy(made.indices),
            epoch=plan.epoch,
            broken=made.broken,
        )


class _Maker:
    """Opens, decodes and transforms the pictures of one batch; what a worker carries."""

    def __init__(
        self, source: Source, transform: Transform, seed: int, keep: bool, disk: PixelCache | None = None
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.keep = keep
        self.disk = disk
        self._kept: dict[int, Picture] = {}

    def __call__(self, plan: _Plan) -> _Made:
        images, indices, broken = [], [], []
        for index in plan.indices.tolist():
            generator = sample_generator(self.seed, plan.epoch, index)
            try:
                images.append(self.transform(self._open(index), generator))
            except ImageError as error:
                broken.append((index, str(error)))
            else:
                indices.append(index)
        preprocessing = self.transform.preprocessing
        shape = (len(images), preprocessing.num_channels, *preprocessing.image_size)
        batch = np.stack(images) if images else np.zeros(shape, dtype=np.uint8)
        return _Made(batch, np.array(indices, dtype=np.int64), tuple(broken))

    def _open(self, index: int) -> Picture:
        if self.disk is not None:
            return self.disk.keep(self.source.open(index))
        if not self.keep:
            return self.source.open(index)
        if index not in self._kept:
            self._kept[index] = _KeptPicture(self.source.open(index))
        return self._kept[index]


class _KeptPicture(Picture):
    """A picture that is decoded once at each scale that is asked of it, and so gives the same pixels as without."""

    def __init__(self, picture: Picture) -> None:
        self.name, self.size, self.format, self.mode = picture.name, picture.size, picture.format, picture.mode
        self._picture = picture
        self._decoded: dict[tuple[int, int], Image.Image] = {}

    def _factor(self, at_least: tuple[int, int] | None) -> int:
        return self._picture._factor(at_least)

    def image(self, at_least: tuple[int, int] | None = None, num_channels: int = 3) -> Image.Image:
        scale = (self._picture._factor(at_least), num_channels)
        if scale not in self._decoded:
            self._decoded[scale] = self._picture.image(at_least, num_channels)
        return self._decoded[scale]


class _Pool:
    """Worker processes that make batches ahead; they end with the `with` block, or with this process."""

    def __init__(self, maker: _Maker, num_workers: int) -> None:
        self._num_ahead = num_workers * BATCHES_AHEAD
        self._executor = ProcessPoolExecutor(
            num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(maker,)
        )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def in_order(self, plans: Iterable[_Plan]) -> Iterator[tuple[_Plan, _Made]]:
        try:
            yield from _in_order(self._executor, _make, plans, self._num_ahead)
        except BrokenProcessPool as error:
            raise DataError(
                "a loader worker was killed, most often because memory ran out; "
                "use fewer workers, or none with --loader.num-workers 0"
            ) from error


def _in_order(
    executor: Executor, make: Callable[[_Plan], _Made], plans: Iterable[_Plan], num_ahead: int
) -> Iterator[tuple[_Plan, _Made]]:
    waiting: deque[tuple[_Plan, Future[_Made]]] = deque()
    for plan in plans:
        waiting.append((plan, executor.submit(make, plan)))
        if len(waiting) > num_ahead:
            yield waiting[0][0], waiting.popleft()[1].result()
    while waiting:
        yield waiting[0][0], waiting.popleft()[1].result()


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choose_num_workers(source: Source, indices: np.ndarray, config: LoaderConfig) -> int:
    """What the user said, or one for each core but the one that trains; none where pictures are in memory already."""
    if config.num_workers is not None:
        if config.num_workers < 0:
            raise ValueError(f"num_workers {config.num_workers} is negative; 0 loads in the training process")
        return config.num_workers
    try:
        if source.read_bytes(int(indices[0])) is None:
            return 0
    except ImageError:
        pass  # a file all the same
    return min(num_cores() - 1, 1 if config.cache == "memory" else MAX_WORKERS)


_maker: _Maker | None = None  # of this worker process: sent once, not with every batch


def _start_worker(maker: _Maker) -> None:
    global _maker
    _maker = maker
    # A terminal's Ctrl-C reaches every process of its group; only the parent decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _make(plan: _Plan) -> _Made:
    assert _maker is not None
    return _maker(plan)
