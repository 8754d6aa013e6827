"""A real server in a process of its own, with a small model."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.config import Preprocessing
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import BundleConfig, made_up_pictures, save_bundle

LABELS = ("ash", "beech", "cedar", "date palm")
TOKEN = "correct-horse-battery-staple"
# A script in place of the command, so that a test can choose the deadlines too.
_SERVE = """
import sys
from vitrail.serve.config import ServeConfig
from vitrail.serve.run import serve
from vitrail.training.events import Events
import json
config = ServeConfig(**{name: tuple(value) if isinstance(value, list) else value
                        for name, value in json.loads(sys.argv[1]).items()})
with Events() as events:
    serve(config, events, lambda address: print(address, flush=True))
"""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server.

    Attributes:
        process: its own.
        address: "127.0.0.1:8123".
    """

    process: subprocess.Popen[str]
    address: str

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: bytes, kind: str = "image/png", headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, {"Content-Type": kind, **(headers or {})})

    def wait_until_ready(self) -> None:
        while self.process.poll() is None:
            if self.get("/readyz").status == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"the server ended: {self.process.returncode}")

    def kill(self) -> None:
        """End it at once."""
        with self.process:  # closes its pipe too
            self.process.kill()


def start(model: str, *, log: Path | None = None, **settings: Any) -> Server:
    """A server on a free port; any field of ServeConfig.

    Args:
        log: where what it writes to stderr is kept; by default it is the test's own.
    """
    values = json.dumps({"model": model, "port": 0, **settings})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SERVE, values]
    with contextlib.nullcontext() if log is None else log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    assert process.stdout is not None
    address = process.stdout.readline().strip().removeprefix("http://")
    assert address, "the server did not start"
    return Server(process, address)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = ViTConfig(
        image_size=(32, 32), patch_size=8, width=48, depth=3, num_heads=3, mlp_size=96, num_classes=len(LABELS)
    )
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a fresh head is zero
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    preprocessing = Preprocessing(image_size=(32, 32))
    folder = tmp_path_factory.mktemp("served") / "bundle"
    save_bundle(folder, model, BundleConfig(config, LABELS, preprocessing), made_up_pictures(preprocessing))
    return str(folder)


@pytest.fixture(scope="session")
def server(bundle: str) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    running = start(bundle)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="session")
def guarded(bundle: str) -> Iterator[Server]:
    """One that asks for TOKEN."""
    running = start(bundle, token=TOKEN)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.kill()


@pytest.fixture
def start_server(bundle: str) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of a test's own; they end with it."""
    running: list[Server] = []

    def begin(**settings: Any) -> Server:
        model = settings.pop("model", bundle)
        running.append(start(model, **settings))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five that can be read, of three formats."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.{kind}" for number, kind in enumerate(("jpg", "png", "webp", "jpg", "png"))]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(file)
    return files


def form_of(files: list[tuple[str, bytes]], boundary: str = "----vitrail") -> tuple[bytes, str]:
    """(name, bytes) of files as a form: its body and its content type."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="pictures"; filename="{name}"\r\n\r\n'.encode(
            "utf-8", "surrogateescape"
        )
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
