from __future__ import annotations

import io
import re

import pytest

from vitrail.cli.terminal import PLAIN_SECONDS, Terminal, duration, printable
from vitrail.training.events import Events, Progress


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(terminal: Terminal, clock: _Clock, steps: int, seconds: float) -> None:
    for step in range(steps + 1):
        terminal.progress(
            Progress("training", step, steps, {"train_loss": 2.0 - step / steps, "images_per_second": 1234.5})
        )
        clock.now += seconds


def test_without_a_terminal_progress_is_a_few_plain_lines() -> None:
    clock, stream = _Clock(), io.StringIO()
    terminal = Terminal(stream, clock=clock)
    terminal.note("recipe: small_photos")
    _run(terminal, clock, steps=1000, seconds=0.1)
    terminal.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "recipe: small_photos"
    assert 100 / PLAIN_SECONDS - 1 <= len(lines) - 1 <= 100 / PLAIN_SECONDS + 2
    assert lines[1].startswith("training: 151 of 1,000, 1,234 img/s, loss 1.849, 1 min 25 s left")
    assert lines[-1].startswith("training: 1,000 of 1,000")
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_short_phase_says_nothing() -> None:
    clock, stream = _Clock(), io.StringIO()
    _run(Terminal(stream, clock=clock), clock, steps=10, seconds=0.1)
    assert stream.getvalue() == ""


def test_the_last_validation_accuracy_stays_in_sight() -> None:
    clock, stream = _Clock(), io.StringIO()
    terminal = Terminal(stream, clock=clock)
    terminal.progress(Progress("training", 0, 100, {"validation_accuracy": 0.512}))
    clock.now += PLAIN_SECONDS
    terminal.progress(Progress("training", 50, 100, {"train_loss": 1.0}))
    assert "validation 51.2 %" in stream.getvalue()


def test_on_a_terminal_a_bar_is_drawn_and_notes_stand_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = _Clock(), io.StringIO()
    terminal = Terminal(stream, live=True, clock=clock)
    terminal.progress(Progress("training", 3, 10, {"train_loss": 0.5}))
    terminal.note("checkpoint [bold]saved[/bold]")
    terminal.close()
    drawn = stream.getvalue()
    assert "\x1b[" in drawn
    assert "training" in drawn
    assert "3 of 10" in drawn
    assert "checkpoint [bold]saved[/bold]" in drawn


def test_the_bar_fits_a_narrow_terminal_and_notes_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "50")
    clock, stream = _Clock(), io.StringIO()
    terminal = Terminal(stream, live=True, clock=clock)
    values = {"images_per_second": 1234.0, "train_loss": 0.5, "validation_accuracy": 0.9, "seconds_left": 4000.0}
    terminal.progress(Progress("training", 3_000, 10_000, values))
    path = "photos/" + "long name " * 12 + "end.jpg"
    terminal.note(path)
    terminal.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").split("\n")
    assert path in lines
    assert max(len(line) for line in lines if line != path) <= 50


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    terminal = Terminal(stream, live=True)
    terminal.warning("two files are broken")
    terminal.progress(Progress("training", 3, 10, {"train_loss": 0.5}))
    terminal.warning("one more")
    terminal.close()
    colours = [
        code for code in stream.getvalue().split("\x1b[")[1:] if code.split("m")[0][:1] in "349" and "m" in code[:4]
    ]
    assert colours == []


def test_warnings_are_heard_even_in_quiet() -> None:
    stream = io.StringIO()
    with Events(Terminal(stream, quiet=True)) as events:
        events.note("hello")
        events.progress("training", 1, 2)
        events.warning("two files are broken")
    assert stream.getvalue() == "warning: two files are broken\n"


def test_control_characters_are_shown_and_letters_of_any_script_left_alone() -> None:
    assert printable("a\x1b[2J\x9b \u202eb") == "a\\x1b[2J\\x9b \\u202eb"
    assert printable("naïve 日本語 фото\nnext") == "naïve 日本語 фото\nnext"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (11_520, "3 h 12 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_download_is_counted_in_megabytes() -> None:
    clock, stream = _Clock(), io.StringIO()
    terminal = Terminal(stream, clock=clock)
    events = Events(terminal)
    for done in range(31):
        events.download(done * 1_000_000, 30_000_000)
        clock.now += 1.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "downloading: 15.0 of 30.0 MB, 15 s left"
