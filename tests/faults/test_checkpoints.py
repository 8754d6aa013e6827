"""Damaged and incomplete checkpoints are passed over, and said so; a full disk costs no checkpoint that was there."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toy_run import CONFIG, Toy

from vitrail.errors import RunError, WeightsError
from vitrail.models.vit import VisionTransformer
from vitrail.training.events import JsonLines, SilentSink, read_metrics
from vitrail.training.run_state import load_latest_checkpoint
from vitrail.weights.bundle import BundleConfig, load_bundle, save_bundle

resource = pytest.importorskip("resource", reason="a full disk is played by a limit that this system has not")


def limit_file_size(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def room_again() -> Iterator[None]:
    """Lifts the limit at the end of the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FILES = ["model.safetensors", "optimizer.safetensors", "averaged.safetensors", "best.safetensors", "state.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    Toy(folder=folder).run()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, cut_off, empty, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(run: Path, name: str, damage: Callable[[Path], None]) -> None:
    newest = run / "checkpoints" / "step-00000010"
    damage(newest / name)
    checkpoint, skipped = load_latest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == 8
    assert len(skipped) == 1
    assert "step-00000010" in skipped[0]
    if name != "manifest.json":
        assert name in skipped[0]


def test_a_run_whose_last_checkpoint_is_damaged_ends_as_it_would_have(run: Path, finished: Path) -> None:
    flip_a_byte(run / "checkpoints" / "step-00000010" / "model.safetensors")
    Toy(folder=run).run()
    manifests = [folder / "checkpoints" / "step-00000010" / "manifest.json" for folder in (run, finished)]
    tensors = [
        {name: entry for name, entry in json.loads(path.read_text()).items() if name != "state.json"}
        for path in manifests
    ]
    assert tensors[0] == tensors[1]
    assert load_latest_checkpoint(run)[1] == []


def test_when_every_checkpoint_is_damaged_each_is_named(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").write_text("{")
    checkpoint, skipped = load_latest_checkpoint(run)
    assert checkpoint is None
    assert [sentence.split()[1] for sentence in skipped] == ["step-00000010", "step-00000008"]


def test_half_a_checkpoint_under_its_working_name_is_not_looked_at(run: Path) -> None:
    (run / "checkpoints" / ".step-00000012.partial").mkdir()
    (run / "checkpoints" / "notes.txt").write_text("mine")
    checkpoint, skipped = load_latest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert skipped == []


class FillsTheDisk(SilentSink):
    """From step 5 on no file may grow beyond a few bytes: to a writer, the disk is full."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 5:
            limit_file_size(4096)


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with room_again(), pytest.raises(RunError) as raised:
        Toy(folder=run).run(FillsTheDisk())
    message = str(raised.value)
    assert "step-00000006: could not be saved" in message
    assert "the checkpoint checkpoints/step-00000004 before it is intact" in message
    assert f"vitrail fit --resume {run}" in message
    # Its own half is gone, the earlier ones are whole, and with room again the run goes on.
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    checkpoint, skipped = load_latest_checkpoint(run)
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (4, [])
    assert Toy(folder=run).run().step == 10


def test_a_full_disk_stops_the_metrics_with_a_clear_error_and_half_a_line_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    for step in range(3):
        sink.metrics(step, {"loss": 0.5})
    with room_again():
        limit_file_size(path.stat().st_size + 10)  # room for a part of a line
        with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written"):
            sink.metrics(3, {"loss": 0.5})
    sink.close()
    assert not path.read_bytes().endswith(b"\n")
    JsonLines(path, after_step=9).close()
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2]


def test_a_full_disk_keeps_the_bundle_that_was_there(tmp_path: Path) -> None:
    config = BundleConfig(CONFIG.model, tuple("abcdefghij"), CONFIG.preprocessing)
    model = VisionTransformer(CONFIG.model)
    save_bundle(tmp_path / "bundle", model, config)
    with room_again():
        limit_file_size(4096)
        with pytest.raises(WeightsError, match="bundle: the bundle could not be saved"):
            save_bundle(tmp_path / "bundle", model, replace(config, name="second"))
    assert load_bundle(tmp_path).config.name == "classifier"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
