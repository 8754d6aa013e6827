"""The batcher: every query gets its own answer, batches are bounded, what does not fit is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from vitrail.serve.batcher import Batcher, QueueFullError


def doubled(queries: Sequence[int]) -> list[int]:
    return [2 * query for query in queries]


async def ask_all(batcher: Batcher[int, int], queries: list[int]) -> list[int]:
    with batcher.places(len(queries)):
        return await asyncio.gather(*(batcher.ask(query) for query in queries))


def test_every_query_gets_its_own_answer_in_batches_that_are_not_too_large() -> None:
    sizes: list[int] = []

    async def run() -> None:
        batcher = Batcher(doubled, batch_size=4, wait_seconds=0.01, capacity=100, seen=sizes.append)
        answers = await asyncio.gather(*(ask_all(batcher, list(range(n, n + 7))) for n in range(0, 70, 7)))
        batcher.close()
        assert [answer for part in answers for answer in part] == [2 * query for query in range(70)]

    asyncio.run(run())
    assert sum(sizes) == 70
    assert max(sizes) <= 4


def test_a_batch_leaves_when_nothing_else_is_on_its_way() -> None:
    async def run() -> None:
        # Would it wait for company, this would take an hour.
        batcher = Batcher(doubled, batch_size=4, wait_seconds=3600, capacity=100)
        assert await ask_all(batcher, [1, 2]) == [2, 4]
        batcher.close()

    asyncio.run(run())


def test_what_does_not_fit_is_refused_with_a_time_and_fits_again_later() -> None:
    go_on = threading.Event()

    def slow(queries: Sequence[int]) -> list[int]:
        go_on.wait()
        return doubled(queries)

    async def run() -> None:
        batcher = Batcher(slow, batch_size=4, wait_seconds=0.001, capacity=3)
        first = asyncio.create_task(ask_all(batcher, [1, 2]))
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        with pytest.raises(QueueFullError) as refused, batcher.places(2):
            pass
        assert refused.value.retry_after >= 1
        go_on.set()
        assert await first == [2, 4]
        assert batcher.waiting == 0
        assert await ask_all(batcher, [5, 6, 7]) == [10, 12, 14]
        batcher.close()

    asyncio.run(run())


def test_a_failure_reaches_those_of_its_batch_and_no_others() -> None:
    def picky(queries: Sequence[int]) -> list[int]:
        if 13 in queries:
            raise ValueError("thirteen")
        return doubled(queries)

    async def run() -> None:
        batcher = Batcher(picky, batch_size=1, wait_seconds=0.001, capacity=10)
        with batcher.places(3):
            found = await asyncio.gather(*(batcher.ask(query) for query in (1, 13, 2)), return_exceptions=True)
        batcher.close()
        assert found[0] == 2
        assert isinstance(found[1], ValueError)
        assert found[2] == 4

    asyncio.run(run())


def test_closing_answers_what_is_waiting_first() -> None:
    async def run() -> None:
        batcher = Batcher(doubled, batch_size=2, wait_seconds=0.001, capacity=50)
        asked = asyncio.create_task(ask_all(batcher, list(range(50))))
        for _ in range(3):  # until each of the fifty is in the queue
            await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        assert await asked == [2 * query for query in range(50)]
        with batcher.places(1), pytest.raises(RuntimeError, match="closed"):
            await batcher.ask(1)

    asyncio.run(run())
