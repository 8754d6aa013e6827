"""How a model answers many pictures soonest, found out on the first of them: its threads, and bfloat16 or float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.training.events import Events
from vitrail.training.precision import Precision

Rows = npt.NDArray[np.float32]
TURNS = 2  # batches a number of threads is timed on
WORTH_A_TRIAL = 4 * TURNS + 1  # batches: fewer are answered sooner than tried
# bfloat16 has to be so many times as fast, and no row of the first batch may be further off, by its length.
MIN_GAIN, MAX_OFF = 1.1, 0.02


class Pace:
    """Answers batches one after the other, and uses the first ones to choose how. Threads are as before in the end.

    A second thread may cost more than it brings where other programs keep the cores busy, or where decoding does. What
    is timed is therefore the time between answers, waiting for pictures included.

    Args:
        answer: (B, C, H, W) uint8 and a precision -> rows (B, K).
        num_batches: how many will come; 0: threads stay as they are.
    """

    def __init__(
        self,
        answer: Callable[[Tensor, Precision], Rows],
        device: torch.device,
        precision: Precision | Literal["auto"],
        num_batches: int,
        events: Events | None,
    ) -> None:
        self._answer, self._events = answer, events
        self._precision = precision
        self._before = torch.get_num_threads()
        worth_it = device.type == "cpu" and self._before > 1 and num_batches >= WORTH_A_TRIAL
        self._turns = [count for count in (self._before, 1) for _ in range(TURNS)] if worth_it else []
        self._seconds: dict[int, float] = {}
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def answer(self, images: Tensor) -> Rows:
        """(B, K) for (B, C, H, W) uint8."""
        if self._precision == "auto":
            rows, self._precision = self._try_precisions(images)
            self._last = time.perf_counter()
            return rows
        if self._last and self._turns:
            return self._try_threads(images, self._turns.pop(0))
        rows = self._answer(images, self._precision)
        self._last = time.perf_counter()
        return rows

    def _try_threads(self, images: Tensor, count: int) -> Rows:
        torch.set_num_threads(count)
        assert self._precision != "auto"
        rows = self._answer(images, self._precision)
        now = time.perf_counter()
        # The faster of its turns: the first one of more threads starts them.
        self._seconds[count] = min(now - self._last, self._seconds.get(count, float("inf")))
        self._last = now
        if not self._turns:
            torch.set_num_threads(min(self._seconds, key=self._seconds.__getitem__))
        return rows

    def _try_precisions(self, images: Tensor) -> tuple[Rows, Precision]:
        """Two rounds of both on the same pictures; what the second one gave."""
        seconds: dict[Precision, float] = {}
        rows: dict[Precision, Rows] = {}
        for _ in range(2):
            for precision in ("float32", "bfloat16"):
                start = time.perf_counter()
                rows[precision] = self._answer(images, precision)
                seconds[precision] = time.perf_counter() - start
        off = farthest(rows["float32"], rows["bfloat16"])
        gain = seconds["float32"] / seconds["bfloat16"]
        chosen: Precision = "bfloat16" if gain >= MIN_GAIN and off <= MAX_OFF else "float32"
        if self._events is not None:
            self._events.note(
                f"precision: {chosen} (bfloat16 is {gain:.1f} times as fast and off by {100 * off:.2g} % at most)"
            )
        return rows[chosen], chosen


def farthest(expected: Rows, found: Rows) -> float:
    """The greatest distance of a row of `found` from that of `expected`, by the length of the latter; (B, K) both."""
    lengths = np.linalg.norm(expected, axis=1)
    distances = np.linalg.norm(found - expected, axis=1)
    return float((distances / np.maximum(lengths, 1e-12)).max())
