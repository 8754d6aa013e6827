"""What stands behind the routes: the model as it loads, the thread that owns it, and those that read pictures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar

from vitrail.data.loader import num_cores
from vitrail.errors import ImageError
from vitrail.serve.batcher import Batcher, QueueFullError
from vitrail.serve.bodies import Bodies, Upload, uploads_of
from vitrail.serve.config import ServeConfig
from vitrail.serve.errors import not_ready, too_busy
from vitrail.serve.metrics import Metrics
from vitrail.serve.served_model import Query, Reply, ServedModel

T = TypeVar("T")
State = Literal["loading", "ready", "draining"]
Answered = list[tuple[Upload, Reply | str]]  # of each picture the reply, or why it cannot be read


class Service:
    """One model, from its loading to its last answer.

    Args:
        load: gives the model, in a thread of its own.
        failed: called in that thread with what `load` raised.
    """

    def __init__(
        self,
        config: ServeConfig,
        load: Callable[[], ServedModel],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.config = config
        self.bodies = Bodies(config)
        self._load, self._failed = load, failed
        self._model: ServedModel | None = None
        self._batcher: Batcher[Query, Reply] | None = None
        self._is_draining = False
        self.metrics = Metrics(lambda: 0 if self._batcher is None else self._batcher.waiting, lambda: self.bodies.held)
        self._readers = ThreadPoolExecutor(num_cores(), "pictures")
        # Forms are taken apart in Python: several threads would not do it faster, but take turns with the event loop.
        self._forms = ThreadPoolExecutor(1, "forms")

    @property
    def state(self) -> State:
        if self._is_draining:
            return "draining"
        return "loading" if self._model is None else "ready"

    @property
    def model(self) -> ServedModel:
        """The loaded model. Raises ApiError, 503, while there is none."""
        if self._model is None or self._is_draining:
            raise not_ready(self.state)
        return self._model

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._start, name="loading", daemon=True).start()

    def drain(self) -> None:
        """Take no new work; what was taken is answered."""
        self._is_draining = True

    def close(self) -> None:
        """Answer what is waiting, then let go of the threads."""
        self.drain()
        if self._batcher is not None:
            self._batcher.close()
        self._forms.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    async def uploads(self, body: bytearray, content_type: str) -> list[Upload]:
        """See `uploads_of`: beside the event loop, because a form may be made to be slow to take apart."""
        work = partial(uploads_of, body, content_type, self.config.max_pictures)
        return await asyncio.get_running_loop().run_in_executor(self._forms, work)

    async def answer(
        self, uploads: list[Upload], *, with_features: bool = False, with_attention: bool = False
    ) -> Answered:
        """Read the pictures and ask the model, all together, in their order.

        Raises:
            ApiError: 429 where they do not fit into the queue, 503 without a model.
        """
        model, batcher = self.model, self._batcher
        assert batcher is not None

        async def one(upload: Upload) -> tuple[Upload, Reply | str]:
            try:
                image = await self.beside(partial(model.predictor.read, upload.data, upload.name))
            except ImageError as error:
                return upload, error.cause
            return upload, await batcher.ask(Query(image, with_features, with_attention))

        try:
            with batcher.places(len(uploads)):
                answered = await asyncio.gather(*(one(upload) for upload in uploads))
        except QueueFullError as full:
            raise too_busy("busy", f"{self.config.queue_size} pictures are waiting already", full.retry_after) from None
        return answered

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something that takes a while in a thread, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _start(self) -> None:
        try:
            model = self._load()
            self._batcher = Batcher(
                model.answer,
                batch_size=self.config.batch_size,
                wait_seconds=self.config.wait_seconds,
                capacity=self.config.queue_size,
                seen=self.metrics.batch,
            )
            self._model = model
        except BaseException as error:
            self._failed(error)
