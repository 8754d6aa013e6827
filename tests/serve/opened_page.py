"""The page of `vitrail serve`, opened in a browser: what a test gives it, and what it reads there."""

from __future__ import annotations

import base64
import io
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrail.tasks.predict import PredictConfig, predict
from vitrail.tasks.predictor import Prediction
from vitrail.training.events import Events, SilentSink

PICTURES = ("one.png", "two.jpg", "three.webp", 'a "fourth" <b>, so to say.png', "five.png", "six.jpg", "seven.png")
NBSP = "\u00a0"


@dataclass(frozen=True)
class Served:
    address: str
    run: Path
    photos: Path  # a flat folder


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(1)
    for number, name in enumerate(PICTURES):
        pixels = generator.integers(0, 90, (60, 60 + 10 * number, 3)) + 30 * number
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "two.jpg").read_bytes()[:400])
    (folder / 'also "broken".jpg').write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")


class Page:
    """The page of a server. What goes wrong in it, and where it asks, is kept."""

    def __init__(self, page: Any, served: Served) -> None:
        self.page, self.served = page, served
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(served.address)
        page.locator("#model").wait_for()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def texts(self, selector: str) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def give(self, event: str, *names: str) -> None:
        """Drop or paste files of the folder."""
        paths = [self.served.photos / name for name in names]
        files = [
            (path.name, mimetypes.guess_type(path)[0] or "", base64.b64encode(path.read_bytes()).decode())
            for path in paths
        ]
        self.page.evaluate(
            """([event, files]) => {
              const data = new DataTransfer();
              for (const [name, type, base64] of files) {
                const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
                data.items.add(new File([bytes], name, { type }));
              }
              const options = { bubbles: true, cancelable: true };
              document.querySelector("main").dispatchEvent(event === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: data })
                : new DragEvent("drop", { ...options, dataTransfer: data }));
            }""",
            [event, files],
        )

    def pick(self, *names: str) -> None:
        self.page.set_input_files("#picker", [str(self.served.photos / name) for name in names])

    def wait(self, is_so: Callable[[], bool]) -> None:
        """The page's policy keeps Playwright's own `wait_for_function` out, which needs `eval`."""
        for _ in range(1500):
            if is_so():
                return
            self.page.wait_for_timeout(20)
        pytest.fail("that does not come")

    def wait_for_answer(self, name: str) -> None:
        self.wait(lambda: self.text("#announcer").startswith(f"{name}: "))

    def pixels(self) -> Any:
        """(height, width, 3) of the canvas, as floats."""
        address = self.page.evaluate("document.querySelector('#attention-canvas').toDataURL('image/png')")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            return np.asarray(picture.convert("RGB"), np.float64)

    def is_shown(self, selector: str) -> bool:
        return bool(self.page.locator(selector).is_visible())


def answer_of(served: Served, name: str, top_k: int = 5) -> Prediction:
    """What `vitrail predict` says."""
    with Events(SilentSink()) as events:
        return predict(PredictConfig(str(served.run), (str(served.photos / name),), top_k=top_k), events)[0]


def in_words(probability: float) -> str:
    if 0.995 <= probability < 1:
        return f">{NBSP}99{NBSP}%"
    return f"<{NBSP}1{NBSP}%" if 0 < probability < 0.005 else f"{100 * probability:.0f}{NBSP}%"


def from_base64(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def plain_pixels(page: Page) -> Any:
    page.page.locator("#plain").check()
    # The picture is drawn when it is decoded, and again when a frame is due: until two looks agree.
    seen = [page.pixels()]

    def is_still() -> bool:
        seen.append(page.pixels())
        return seen[-1].shape[0] > 400 and seen[-1].any() and bool((seen[-1] == seen[-2]).all())

    page.page.wait_for_timeout(100)
    page.wait(is_still)
    page.page.locator("#plain").uncheck()
    return seen[-1]


def is_shaded(pixels: Any, plain: Any, map_: Any) -> bool:
    """Whether the picture is dark where the map is low: seen at the centres of patches, where nothing is mixed in."""
    height, width = plain.shape[:2]
    ys = [int((row + 0.5) * height / map_.shape[0]) for row in range(map_.shape[0])]
    xs = [int((column + 0.5) * width / map_.shape[1]) for column in range(map_.shape[1])]
    share = 0.2 + 0.8 * map_.astype(np.float64)[:, :, None] / 255
    return bool(np.abs(pixels[np.ix_(ys, xs)] - plain[np.ix_(ys, xs)] * share).max() <= 3)
