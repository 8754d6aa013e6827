"""With how many threads a model answers many pictures soonest, found out on the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = npt.NDArray[np.float32]
TURNS = 2  # batches a number of threads is timed on
WORTH_A_TRIAL = 4 * TURNS + 1  # batches: fewer are answered sooner than tried


class Pace:
    """Answers batches one after the other, and uses the first ones to choose how. Threads are as before in the end.

    A second thread may cost more than it brings where other programs keep the cores busy, or where decoding does. What
    is timed is therefore the time between answers, waiting for pictures included.

    Args:
        answer: (B, C, H, W) uint8 -> rows (B, K).
        num_batches: how many will come; 0: threads stay as they are.
    """

    def __init__(self, answer: Callable[[Tensor], Rows], device: torch.device, num_batches: int) -> None:
        self._answer = answer
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
        if self._last and self._turns:
            return self._try_threads(images, self._turns.pop(0))
        rows = self._answer(images)
        self._last = time.perf_counter()
        return rows

    def _try_threads(self, images: Tensor, count: int) -> Rows:
        torch.set_num_threads(count)
        rows = self._answer(images)
        now = time.perf_counter()
        # The faster of its turns: the first one of more threads starts them.
        self._seconds[count] = min(now - self._last, self._seconds.get(count, float("inf")))
        self._last = now
        if not self._turns:
            torch.set_num_threads(min(self._seconds, key=self._seconds.__getitem__))
        return rows
