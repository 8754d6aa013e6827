"""One thread owns the model: pictures of all clients wait in a bounded queue and are answered in batches."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class QueueFullError(Exception):
    """More waits than may; `retry_after` in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full for about {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class _Waiting(Generic[Q, A]):
    query: Q
    future: asyncio.Future[A]
    loop: asyncio.AbstractEventLoop


class Batcher(Generic[Q, A]):
    """Answers queries in the order in which they come, several at once.

    A batch leaves when it is full, when nothing else is on its way, or `wait_seconds` after its first query came.

    Args:
        answer: queries -> as many answers, in the one thread that calls it. What it raises, each of the batch gets.
        capacity: queries that may be on their way: places taken and not given back.
        seen: called with the size of each batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A]],
        *,
        batch_size: int,
        wait_seconds: float,
        capacity: int,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._answer, self._seen = answer, seen
        self._batch_size, self._wait_seconds, self._capacity = batch_size, wait_seconds, capacity
        self._queue: queue.SimpleQueue[_Waiting[Q, A] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._taken = 0  # places; written by the event loop's thread alone
        self._seconds_each = 0.01  # a query, lately
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Queries on their way, those that are being answered included."""
        return self._taken

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Room for `count` queries of one request, until its answers are there. Call it in the event loop's thread.

        Raises:
            QueueFullError: there is not so much room now.
        """
        if self._taken + count > self._capacity:
            raise QueueFullError(max(1, math.ceil(self._taken * self._seconds_each)))
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count

    async def ask(self, query: Q) -> A:
        """Its answer; whoever asks holds a place for it. Raises RuntimeError after `close`."""
        if self._is_closed:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._queue.put(_Waiting(query, future, loop))
        return await future

    def close(self) -> None:
        """Answer what is in the queue, then end the thread."""
        self._is_closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            is_last = self._fill(batch)
            begin = time.perf_counter()
            # Whoever went away meanwhile needs no answer.
            batch = [one for one in batch if not one.future.cancelled()]
            if batch:
                self._give(batch)
                self._seen(len(batch))
                each = (time.perf_counter() - begin) / len(batch)
                self._seconds_each += 0.2 * (each - self._seconds_each)
            if is_last:
                return

    def _fill(self, batch: list[_Waiting[Q, A]]) -> bool:
        """Add to the batch what comes in time; whether the end of all work came."""
        deadline = time.perf_counter() + self._wait_seconds
        while len(batch) < self._batch_size:
            try:
                if self._taken <= len(batch):
                    one = self._queue.get_nowait()
                else:
                    one = self._queue.get(timeout=max(0.0, deadline - time.perf_counter()))
            except queue.Empty:
                return False
            if one is None:
                return True
            batch.append(one)
        return False

    def _give(self, batch: list[_Waiting[Q, A]]) -> None:
        try:
            answers: Sequence[A | BaseException] = self._answer([one.query for one in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            try:
                one.loop.call_soon_threadsafe(_settle, one.future, answer)
            except RuntimeError:  # the loop has ended, and with it whoever asked
                return


def _settle(future: asyncio.Future[A], answer: A | BaseException) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
