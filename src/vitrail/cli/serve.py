"""`vitrail serve MODEL`: a page where people drop pictures, and an API for programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vitrail.cli.imports import heavy_imports
from vitrail.cli.output import write_line
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal
from vitrail.serve.config import ServeConfig, is_loopback

TOKEN_VARIABLE = "VITRAIL_TOKEN"


@dataclass(frozen=True)
class Serve:
    """A page where people drop pictures and read the answer, and an API for programs (/openapi.json describes it).
    Runs until Ctrl-C or SIGTERM, and answers first what is on its way."""

    model: Positional[str]
    """A run, a bundle, a weights file of any layout, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    host: str = "127.0.0.1"
    """The address to listen on. Any but this machine's own needs a token: in VITRAIL_TOKEN, or --token-file."""
    port: int = 8000
    """0: any free one."""
    token_file: str | None = None
    """A file with the token that clients must show, as Authorization: Bearer TOKEN; the page asks for it."""
    allow_host: tuple[str, ...] = ()
    """Names that clients may call the server by, such as that of a proxy before it."""
    engine: Literal["model", "auto", "torch", "openvino", "onnx"] = "model"
    """What runs the model; model: itself, with the same bits as `vitrail predict`; auto: the fastest of the others."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """What an engine multiplies in."""
    batch_size: int = 16
    """Pictures the model sees at once, at most."""
    queue_size: int = 128
    """Pictures that may wait; beyond that clients are told to come again."""


def run(arguments: list[str]) -> int:
    command = parse(Serve, arguments, prog="vitrail serve")
    config = ServeConfig(
        model=command.model,
        host=command.host,
        port=command.port,
        token=_token(command),
        allowed_hosts=command.allow_host,
        engine=command.engine,
        precision=command.precision,
        batch_size=command.batch_size,
        queue_size=command.queue_size,
        max_pictures=min(command.queue_size, ServeConfig.max_pictures),
    )
    with heavy_imports():
        try:
            from vitrail.serve.run import serve
        except ImportError as error:
            raise UsageError(
                f"the server needs {error.name}, which is missing; install it with: pip install 'vitrail[serve]'"
            ) from error
        from vitrail.training.events import Events

    def listening(address: str) -> None:
        write_line(f"{address}  (Ctrl-C ends it)")

    with Events(Terminal()) as events:
        serve(config, events, listening)
    return 0


def _token(command: Serve) -> str | None:
    """From the file or the environment: on the command line everybody on the machine could read it."""
    if command.token_file is not None:
        path = Path(command.token_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {path}: cannot be read ({error})") from error
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None and not is_loopback(command.host):
        raise UsageError(
            f"--host {command.host} can be reached from other machines, and needs a token: set {TOKEN_VARIABLE}, or"
            " name a file with --token-file (make one with: python -c 'import secrets; print(secrets.token_urlsafe())')"
        )
    return token
