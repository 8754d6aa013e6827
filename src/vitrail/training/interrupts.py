"""SIGTERM and Ctrl-C: the step in hand is finished, everything is saved, then the run ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A run that was asked to stop and has saved its state.

    Attributes:
        signal_number: SIGINT or SIGTERM.
        exit_code: 128 + signal_number, as shells expect: 130 or 143.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


class Interrupts:
    """Remembers a SIGTERM or SIGINT instead of dying of it, while the `with` block lasts.

    A second Ctrl-C raises KeyboardInterrupt at once, and a third kills. Outside the main thread signals do not arrive,
    and nothing is changed.

    Attributes:
        pending: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._abandoning = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.pending = number
        if self._abandoning:
            raise Interrupted(number)

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """Within this block, which must change nothing that is saved, a signal ends the block at once.

        `pending` tells afterwards that it did.
        """
        with contextlib.suppress(Interrupted):
            self._abandoning = True
            try:
                yield
            finally:
                self._abandoning = False
