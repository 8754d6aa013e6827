"""Damaged and incomplete checkpoints are passed over, and said so; a full disk costs no checkpoint that was there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toy_run import Toy

from vitrail.training.run_state import load_latest_checkpoint

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


_FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy_run import Toy
from vitrail.errors import RunError
from vitrail.training.events import SilentSink

class FillsTheDisk(SilentSink):
    def metrics(self, step, values):
        if step == 5:  # no file may grow beyond this from here on: to a writer, the disk is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

try:
    Toy(folder=Path(sys.argv[2])).run(FillsTheDisk())
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    training = Path(__file__).parents[1] / "training"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(training), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "step-00000006: could not be saved" in done.stdout
    assert "the checkpoint checkpoints/step-00000004 before it is intact" in done.stdout
    assert f"vitrail fit --resume {tmp_path / 'run'}" in done.stdout
    # Its own half is gone, the earlier ones are whole, and with room again the run goes on.
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    checkpoint, skipped = load_latest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (4, [])
    assert Toy(folder=tmp_path / "run").run().step == 10
