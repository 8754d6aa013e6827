"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's own numbers, in a registry of their own.

    Args:
        waiting: pictures on their way, asked when the numbers are read. held: bytes of bodies in memory.
    """

    def __init__(self, waiting: Callable[[], int], held: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("vitrail_requests", "Answered requests.", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "vitrail_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "vitrail_batch_pictures",
            "Pictures that the model saw at once.",
            buckets=_PICTURES,
            registry=self._registry,
        )
        Gauge("vitrail_waiting_pictures", "Pictures on their way.", registry=self._registry).set_function(waiting)
        Gauge("vitrail_body_bytes", "Bytes of bodies in memory.", registry=self._registry).set_function(held)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered. `route` is one of the server's own, so that their number is bounded."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """The model saw so many pictures at once."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
