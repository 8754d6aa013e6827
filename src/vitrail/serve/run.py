"""A server as a process: its socket, its signals, its end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from vitrail.errors import ConfigError
from vitrail.serve.app import create_app
from vitrail.serve.config import ServeConfig
from vitrail.serve.protocol import protocol_of
from vitrail.training.events import Events

_BACKLOG = 2048
# How long a thread that runs Python may keep the event loop waiting, each time that this wants to go on; Python's own
# 0.005 is too much, because an answer of /livez wants to about ten times.
_SWITCH_SECONDS = 0.0005
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(config: ServeConfig, events: Events, listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or Ctrl-C, which lets answers end that are on their way; a second one does not wait.

    Args:
        listening: called with the address once it is bound; the model may still be loading.

    Raises:
        ConfigError: the address cannot be had. WeightsError: no model; see `load_served_model`.
    """
    _raise_file_limit()
    sys.setswitchinterval(_SWITCH_SECONDS)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(config, events, failed=failed)
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol_of(config),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=round(config.drain_seconds),
            backlog=_BACKLOG,
        ),
        app.state.service.drain,
    )
    # What a client did wrong it is told itself; a log that anyone can fill would hide what matters.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    bound = bind(config)
    with contextlib.closing(bound):
        listening(_address(config, bound))
        server.run(sockets=[bound])
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    """uvicorn's, which says that it drains as soon as it is told to end, and ends as a success."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(config: ServeConfig) -> socket.socket:
    """A socket that listens. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Named as TCP, so that asyncio sends small answers at once: else each waits 40 ms for the client's acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((config.host, config.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"--host {config.host} --port {config.port}: cannot listen there ({error.strerror or error}); name another"
            " port, or 0 for any free one"
        ) from error
    bound.setblocking(False)
    return bound


def _address(config: ServeConfig, bound: socket.socket) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{bound.getsockname()[1]}"


def _raise_file_limit() -> None:
    """Each connection is a file to the system, whose usual limit of 1,024 a thousand clients would fill."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(16_384, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
