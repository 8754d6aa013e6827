"""What a run tells while it works, sent to every listener: files, TensorBoard, the terminal."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from vitrail.errors import ConfigError, RunError


@dataclass(frozen=True)
class Progress:
    """How far a phase is: "training", 120 of 1700, {"images_per_second": 812.0}."""

    phase: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    unit: Literal["", "bytes"] = ""  # of what is counted; things that need no unit have none


class Sink(Protocol):
    """A listener. Calls come from one thread, in order."""

    def note(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def close(self) -> None: ...


class Events:
    """Sends each event to every sink, in their order. A context manager that closes them."""

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = list(sinks)

    def add(self, sink: Sink) -> None:
        self.sinks.append(sink)

    def note(self, text: str) -> None:
        for sink in self.sinks:
            sink.note(text)

    def warning(self, text: str) -> None:
        for sink in self.sinks:
            sink.warning(text)

    def metrics(self, step: int, **values: float) -> None:
        """Numbers measured after `step` updates; every name appears at most once a step."""
        for sink in self.sinks:
            sink.metrics(step, values)

    def progress(self, phase: str, done: int, total: int, **values: float) -> None:
        progress = Progress(phase, done, total, values)
        for sink in self.sinks:
            sink.progress(progress)

    def download(self, done: int, total: int) -> None:
        """Bytes that have arrived, of those that will."""
        for sink in self.sinks:
            sink.progress(Progress("downloading", done, total, unit="bytes"))

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SilentSink:
    """Hears everything and does nothing; sinks that care for some events derive from it."""

    def note(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class _AppendedFile:
    """Lines that reach the operating system one by one, so that a killed process loses none it reported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error

    def write(self, line: str) -> None:
        rest = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        try:
            while rest:  # an unbuffered write may take a part, and says no only when it can take nothing
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written ({error.strerror}); make room and resume the run"
            ) from error

    def close(self) -> None:
        self._file.close()


class JsonLines(SilentSink):
    """metrics.jsonl: one object a line, {"step": 12, "train_loss": 0.7, ...}; a number that is not finite is null.

    Args:
        after_step: where a run is resumed: lines of later steps, which will be written again, are dropped first, and
            so is a last line that was cut off.
    """

    def __init__(self, path: Path, after_step: int | None = None) -> None:
        if after_step is not None and path.exists():
            _drop_later_lines(path, after_step)
        self._file = _AppendedFile(path)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **plain}, allow_nan=False))

    def close(self) -> None:
        self._file.close()


def _drop_later_lines(path: Path, after_step: int) -> None:
    kept = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                if not line.endswith(b"\n") or record["step"] > after_step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
    os.truncate(path, kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that was cut off by a kill is left out.

    Raises:
        RunError: a line before the last that is not an object.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}: line {number} is not JSON: {line[:60]!r}") from error
    return records


class TextLog(SilentSink):
    """log.txt: notes and warnings with the time of day."""

    def __init__(self, path: Path) -> None:
        self._file = _AppendedFile(path)

    def note(self, text: str) -> None:
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")

    def warning(self, text: str) -> None:
        self.note(f"warning: {text}")

    def close(self) -> None:
        self._file.close()


class TensorBoard(SilentSink):
    """Scalars for TensorBoard (the extra vitrail[tensorboard]).

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, after_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("TensorBoard is not installed: pip install 'vitrail[tensorboard]'") from error
        purge_step = None if after_step is None else after_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
