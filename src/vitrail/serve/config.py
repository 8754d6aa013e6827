"""How a server listens, and what it refuses; free of torch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from vitrail.data.config import ImageLimits
from vitrail.errors import ConfigError

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_TOKEN = 16  # characters: below that, trying them all is no work


@dataclass(frozen=True)
class ServeConfig:
    """A server of one classifier.

    What a body may weigh, what all bodies together may, and how many pictures may wait bound the memory; how long a
    request may take to arrive bounds what a slow sender holds.
    """

    model: str  # anything that `vitrail.load` takes, with a head
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    token: str | None = None  # asked for on every route but health; needed on any address but loopback
    allowed_hosts: tuple[str, ...] = ()  # names that clients may call the server by, besides its own address
    engine: Literal["model", "auto", "torch", "openvino", "onnx"] = "model"  # "model": the model itself, as `predict`
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    batch_size: int = 16  # pictures the model sees at once, at most
    wait_seconds: float = 0.004  # that a batch waits for more, once its first picture is there
    queue_size: int = 128  # pictures that may wait
    max_pictures: int = 64  # in one request
    max_attention: int = 4  # pictures in one request whose attention is asked for: it costs several answers
    max_body_bytes: int = 20_000_000
    max_bodies_bytes: int = 256_000_000  # of all requests together
    max_pixels: int = 25_000_000
    receive_seconds: float = 10.0  # that a request's head, and then its body, may take to arrive
    send_seconds: float = 30.0  # that a client may take to read an answer
    drain_seconds: float = 30.0  # that answers may take after SIGTERM
    max_connections: int = 4096

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue_size", "max_pictures", "max_body_bytes", "max_pixels", "max_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is below 1")
        for name in ("receive_seconds", "send_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not positive")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not between 0 and 65535")
        if self.max_pictures > self.queue_size:
            raise ConfigError(f"max_pictures {self.max_pictures} do not fit into a queue_size of {self.queue_size}")
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ConfigError(f"max_bodies_bytes {self.max_bodies_bytes} is below that of one body")
        if self.engine == "model" and self.precision != "float32":
            raise ConfigError(
                f"precision '{self.precision}' is an engine's: name one, or --engine auto for the fastest of them"
            )
        if self.token is None and not self.is_loopback:
            raise ConfigError(
                f"host {self.host} can be reached from other machines, and needs a token: set VITRAIL_TOKEN, or name a"
                " file with --token-file"
            )
        if self.token is not None and (len(self.token) < MIN_TOKEN or not self.token.isascii() or " " in self.token):
            raise ConfigError(f"the token must be at least {MIN_TOKEN} ASCII characters without spaces")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def limits(self) -> ImageLimits:
        """Of the pictures in a request."""
        return ImageLimits(max_bytes=self.max_body_bytes, max_pixels=self.max_pixels, formats=FORMATS)


def is_loopback(host: str) -> bool:
    """Whether an address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
