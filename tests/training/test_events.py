from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import RunError
from vitrail.training.events import Events, JsonLines, Progress, SilentSink, TensorBoard, TextLog, read_metrics


def test_every_sink_hears_every_event_in_order() -> None:
    heard: list[tuple[str, str]] = []

    class Sink(SilentSink):
        def __init__(self, name: str) -> None:
            self.name = name

        def note(self, text: str) -> None:
            heard.append((self.name, text))

        def progress(self, progress: Progress) -> None:
            heard.append((self.name, f"{progress.phase} {progress.done}/{progress.total} {dict(progress.values)}"))

    with Events(Sink("a")) as events:
        events.add(Sink("b"))
        events.note("hello")
        events.progress("training", 1, 2, loss=0.5)
    shown = "training 1/2 {'loss': 0.5}"
    assert heard == [("a", "hello"), ("b", "hello"), ("a", shown), ("b", shown)]


def test_metrics_come_back_as_they_were_written_and_nan_as_null(tmp_path: Path) -> None:
    with Events(JsonLines(tmp_path / "metrics.jsonl")) as events:
        events.metrics(1, train_loss=0.1 + 0.2)
        events.metrics(2, train_loss=float("nan"), learning_rate=float("inf"))
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train_loss": 0.1 + 0.2},
        {"step": 2, "train_loss": None, "learning_rate": None},
    ]


def test_each_line_is_with_the_system_before_the_next_step(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.metrics(1, {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1  # without a close or a flush
    sink.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.integers(0, 9), max_size=8).map(sorted),
    after=st.integers(0, 10),
    cut=st.integers(0, 30),
)
def test_resuming_drops_later_and_cut_off_lines_only(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], after: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("events") / "metrics.jsonl"
    with Events(JsonLines(path)) as events:
        for step in steps:
            events.metrics(step, loss=step / 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    complete = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    with Events(JsonLines(path, after_step=after)) as events:
        events.metrics(99, loss=0.0)
    assert [line["step"] for line in read_metrics(path)] == [
        *(line["step"] for line in complete if line["step"] <= after),
        99,
    ]


def test_a_last_line_cut_off_is_left_out_and_a_broken_one_in_between_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        read_metrics(path)


def test_the_log_keeps_time_notes_and_odd_file_names(tmp_path: Path) -> None:
    with Events(TextLog(tmp_path / "log.txt")) as events:
        events.note("a note")
        events.warning("left out: \udcff.jpg")  # a name that is not UTF-8
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("  a note")
    assert second.endswith("  warning: left out: \\udcff.jpg")
    assert first[:2] == "20"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"missing.*metrics\.jsonl"):
        JsonLines(tmp_path / "missing" / "metrics.jsonl")


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Events(TensorBoard(tmp_path)) as events:
        events.metrics(1, train_loss=2.0)
        events.metrics(2, train_loss=1.0)
    accumulator = reader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("train_loss")] == [(1, 2.0), (2, 1.0)]
