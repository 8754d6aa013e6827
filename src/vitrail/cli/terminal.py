"""What a run tells while it works, on stderr: a progress bar on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from vitrail.training.events import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_SECONDS = 15.0  # between two plain lines of one phase

# What a person follows, in this order; other values are for metrics.jsonl.
_VALUE_FORMATS: dict[str, Callable[[float], str]] = {
    "images_per_second": lambda value: f"{value:,.0f} img/s",
    "train_loss": lambda value: f"loss {value:.3f}",
    "validation_accuracy": lambda value: f"validation {100 * value:.1f} %",
}


def is_live(stream: TextIO) -> bool:
    """Whether a line on `stream` can be drawn over."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def printable(text: str) -> str:
    """`text` without characters that would steer the terminal; a file may be called anything."""
    return "".join(
        character if character == "\n" or character.isprintable() else repr(character)[1:-1] for character in text
    )


def duration(seconds: float) -> str:
    """ "8 s", "2 min 05 s", "3 h 12 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Terminal:
    """A sink of training/events.py. `live` None: a bar where the stream is a terminal.

    Args:
        stream: stderr by default, so that stdout holds data alone.
        quiet: notes and progress are left out; warnings are not.
        clock: seconds, for the rhythm of the plain lines.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        live: bool | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = is_live(self._stream) if live is None else live
        self._quiet = quiet
        self._clock = clock
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._phase: str | None = None
        self._phase_began = 0.0
        self._phase_first_done = 0
        self._last_line = 0.0
        self._values: dict[str, float] = {}

    def note(self, text: str) -> None:
        if not self._quiet:
            self._line(text)

    def warning(self, text: str) -> None:
        self._line(f"warning: {text}", style="yellow")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics go to their file; what a person follows comes with the progress."""

    def progress(self, progress: Progress) -> None:
        if self._quiet:
            return
        is_new = progress.phase != self._phase
        if is_new:
            self._end_phase()
            self._phase, self._phase_began, self._phase_first_done = progress.phase, self._clock(), progress.done
            self._last_line = self._phase_began
        # A phase may send the loss with each step and the validation accuracy once in a while: keep the last of each.
        self._values.update(progress.values)
        if self._live:
            self._draw(progress)
        else:
            self._plain(progress)
        if progress.done >= progress.total:
            self._end_phase()

    def close(self) -> None:
        self._end_phase()

    def _plain(self, progress: Progress) -> None:
        now = self._clock()
        is_over = progress.done >= progress.total
        # A phase that is over within the rhythm says nothing: its result does.
        if now - self._last_line < PLAIN_SECONDS and not (is_over and self._last_line > self._phase_began):
            return
        self._last_line = now
        parts = [f"{printable(progress.phase)}: {_count(progress)}", *self._facts()]
        left = self._seconds_left(progress)
        if left is not None and not is_over:
            parts.append(f"{duration(left)} left")
        self._write(", ".join(parts) + "\n")

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._start_bar(progress)
        assert self._bar is not None
        assert self._task is not None
        left = self._seconds_left(progress)
        facts = [*self._facts(), *([f"{duration(left)} left"] if left is not None else [])]
        self._bar.update(
            self._task, completed=progress.done, total=progress.total, facts="  ".join(facts), count=_count(progress)
        )

    def _start_bar(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[facts]}", markup=False, style="dim"),
        )
        # Rich reads NO_COLOR itself.
        console = Console(file=self._stream, force_terminal=True, highlight=False)
        self._bar = RichProgress(*columns, console=console, transient=True, refresh_per_second=5)
        self._task = self._bar.add_task(
            printable(progress.phase), total=progress.total, facts="", count=_count(progress)
        )
        self._bar.start()

    def _end_phase(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._phase = None
        self._values = {}

    def _facts(self) -> list[str]:
        return [said(self._values[name]) for name, said in _VALUE_FORMATS.items() if name in self._values]

    def _seconds_left(self, progress: Progress) -> float | None:
        if "seconds_left" in self._values:
            return self._values["seconds_left"]
        new = progress.done - self._phase_first_done
        elapsed = self._clock() - self._phase_began
        if new <= 0 or elapsed < 2:
            return None
        return elapsed / new * (progress.total - progress.done)

    def _line(self, text: str, style: str | None = None) -> None:
        text = printable(text)
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text(text, style=style or ""), soft_wrap=True)
            return
        is_coloured = style == "yellow" and self._live and not os.environ.get("NO_COLOR")
        self._write(f"\033[33m{text}\033[0m\n" if is_coloured else f"{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _count(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{progress.done / 1e6:,.1f} of {progress.total / 1e6:,.1f} MB"
    return f"{progress.done:,} of {progress.total:,}"
