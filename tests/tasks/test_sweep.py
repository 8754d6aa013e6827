"""A sweep: learning rates tried on held-out training pictures, then one run on all of them, seen by the test once."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.config import Augmentation, DataConfig, Preprocessing
from vitrail.data.sources import open_source
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import ConfigError, NonFiniteError, RunError
from vitrail.models.config import ViTConfig
from vitrail.recipes import RECIPES
from vitrail.recipes.sweeps import SWEEPS, SweepConfig, get_sweep
from vitrail.tasks.prepare import hold_out, prepare_data, read_data_record
from vitrail.tasks.result import RunResult
from vitrail.tasks.sweep import resume_sweep, sweep
from vitrail.tasks.train import train
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.events import Events
from vitrail.training.run_folder import read_config
from vitrail.weights.files import read_tensors
from vitrail.weights.load import load

VITRAIL = str(Path(sys.executable).parent / "vitrail")
RATES = SweepConfig((1e-3, 1e-2, 1e30), 0.2)  # the last diverges


def tiny(data: str, size: int, channels: int = 1) -> TrainConfig:
    half = (0.5,) * channels
    return TrainConfig(
        recipe="tiny",
        data=DataConfig(data),
        model=ViTConfig(
            image_size=(size, size),
            patch_size=size // 2,
            in_channels=channels,
            width=32,
            depth=1,
            num_heads=2,
            mlp_size=32,
        ),
        preprocessing=Preprocessing(image_size=(size, size), mean=half, std=half),
        augmentation=Augmentation(crop="evaluation", flip_rate=0.0),
        optimizer=OptimizerConfig(name="sgd"),
        schedule=ScheduleConfig(steps=6),
        precision="float32",
        num_threads=1,
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    with Events() as events:
        return sweep(tiny("digits", 8), RATES, str(tmp_path_factory.mktemp("sweep") / "run"), events, "typed")


def test_the_last_run_learns_from_every_picture_that_is_not_for_testing(swept: RunResult) -> None:
    last = read_data_record(swept.folder)["splits"]
    tried = [read_data_record(place)["splits"] for place in sorted((swept.folder / "sweep").glob("rate-*"))]
    assert len(tried) == 3
    assert last["validation"] == []
    for splits in tried:
        assert splits == tried[0]
        assert sorted(splits["train"] + splits["validation"]) == sorted(last["train"])
        assert splits["test"] == last["test"]
    assert len(tried[0]["validation"]) == pytest.approx(0.2 * len(last["train"]), abs=5)
    with Events() as events:  # as without a sweep
        usual = prepare_data(open_source("digits"), DataConfig("digits"), events)
    assert last["test"] == [usual.source.key(int(index)) for index in usual.indices(TEST)]


def test_the_test_pictures_are_seen_by_the_last_run_alone(swept: RunResult) -> None:
    assert [path.parent for path in swept.folder.rglob("predictions.csv")] == [swept.folder]
    assert [path.parent for path in swept.folder.rglob("bundle")] == [swept.folder]


def test_the_best_learning_rate_is_taken_and_told_of(swept: RunResult) -> None:
    record = json.loads((swept.folder / "sweep.json").read_bytes())
    with (swept.folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == list(RATES.learning_rates)
    assert record["rates"][2]["accuracy"] is None  # diverged, and the others were tried nevertheless
    scores = [(rate["accuracy"], -rate["loss"]) for rate in record["rates"][:2]]
    assert record["chosen"] == RATES.learning_rates[scores.index(max(scores))]
    assert read_config(swept.folder).optimizer.learning_rate == record["chosen"]
    bundle = load(str(swept.folder)).config
    assert bundle.provenance["learning_rate"] == record["chosen"]
    assert list(bundle.provenance["learning_rates_tried"]) == ["0.001", "0.01", "1e+30"]
    chosen = next(rate for rate in record["rates"] if rate["learning_rate"] == record["chosen"])
    assert bundle.temperature == chosen["temperature"]
    assert "validation_accuracy" not in bundle.metrics


def test_the_weights_after_the_last_update_are_kept(swept: RunResult) -> None:
    assert swept.best_step == 6
    last = read_tensors(swept.folder / "checkpoints" / "step-00000006" / "model.safetensors")
    kept = read_tensors(swept.folder / "bundle" / "model.safetensors")
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, last[f"model.{name}"], rtol=0, atol=0)


def test_the_last_run_can_be_repeated_from_its_config_alone(swept: RunResult, tmp_path: Path) -> None:
    with Events() as events:
        again = train(read_config(swept.folder), str(tmp_path / "again"), events)
    assert isinstance(again, RunResult)
    ours, theirs = (read_tensors(place / "bundle" / "model.safetensors") for place in (again.folder, swept.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_sweep_that_goes_on_keeps_what_is_finished_and_refuses_other_settings(swept: RunResult) -> None:
    results = sorted(swept.folder.glob("sweep/*/held_out.json"))
    before = {path: path.stat().st_mtime_ns for path in results}
    results[0].unlink()  # of a run that had not ended
    weights = (swept.folder / "bundle" / "model.safetensors").read_bytes()
    with Events() as events:
        result = resume_sweep(str(swept.folder), events)
        assert [path for path in results if path.stat().st_mtime_ns != before[path]] == [results[0]]
        assert result.evaluation.accuracy == swept.evaluation.accuracy
        assert (swept.folder / "bundle" / "model.safetensors").read_bytes() == weights
        with pytest.raises(RunError, match="other settings"):
            sweep(tiny("digits", 8), replace(RATES, held_out_share=0.1), str(swept.folder), events)


def test_a_killed_sweep_keeps_its_finished_runs(tmp_path: Path) -> None:
    arguments = [VITRAIL, "train", "digits_vit", "--data", "digits", "--sweep", "--rates", "1e-3", "3e-3"]
    fields = ["--schedule.steps", "4", "--model.depth", "1", "--batch-size", "16"]
    fields += ["--precision", "float32", "--num-threads", "1", "--out", "s"]
    process = subprocess.Popen(
        [*arguments, *fields], cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    first = tmp_path / "s" / "sweep" / "rate-0.001" / "held_out.json"
    limit = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = first.read_bytes()
    done = subprocess.run(
        [VITRAIL, "fit", "--resume", "s", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert first.read_bytes() == kept
    assert len(json.loads(done.stdout)["sweep"]["rates"]) == 2
    assert "0.003" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def test_a_sweep_of_which_no_rate_is_any_good_says_so(tmp_path: Path) -> None:
    with Events() as events, pytest.raises(NonFiniteError, match="smaller ones with --rates"):
        sweep(tiny("digits", 8), SweepConfig((1e30,), 0.2), str(tmp_path / "run"), events)


def test_options_that_contradict_a_sweep_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--config", str(tmp_path / "config.json"), "--scale", "0.1"]) == 2
    assert "leave --scale out" in capsys.readouterr().err
    command = ["train", "digits_vit", "--data", "digits"]
    assert main([*command, "--rates", "0.1"]) == 2
    assert "add --sweep" in capsys.readouterr().err
    assert main([*command, "--sweep", "--rates", "0.1", "--optimizer.learning-rate", "0.2"]) == 2
    assert "--rates" in capsys.readouterr().err
    assert main([*command, "--sweep"]) == 2
    assert "no learning rates to try" in capsys.readouterr().err


def test_a_validation_split_of_the_datas_own_chooses_and_is_not_learnt_from(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4), ("test", 4)):
        for label in "ab":
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / label / f"{number}.png")
    with Events() as events:
        rates = SweepConfig((1e-3,), 0.5)
        result = sweep(tiny(str(tmp_path / "photos"), 8, 3), rates, str(tmp_path / "run"), events)
    assert [len(result.prepared.indices(split)) for split in (TRAIN, VALIDATION, TEST)] == [12, 8, 8]
    assert result.sweep is not None
    assert result.sweep.given
    assert result.sweep.num_train == 12


def test_what_is_held_out_comes_from_the_training_pictures_of_every_class() -> None:
    with Events() as events:
        whole = prepare_data(open_source("digits"), DataConfig("digits", validation_share=0.0), events)
    assert not len(whole.indices(VALIDATION))
    small, large = hold_out(whole, 0.02), hold_out(whole, 0.1)
    assert set(small.indices(VALIDATION)) < set(large.indices(VALIDATION)) < set(whole.indices(TRAIN))
    assert (np.abs(large.class_counts(VALIDATION) - 0.1 * whole.class_counts(TRAIN)) <= 1).all()
    assert (small.class_counts(VALIDATION) > 0).all()
    assert (small.indices(TEST) == whole.indices(TEST)).all()


def test_the_rates_are_those_of_the_papers_table_4() -> None:
    ours = {name: (sweep.learning_rates, sweep.held_out_share) for name, sweep in SWEEPS.items()}
    small = (0.001, 0.003, 0.01, 0.03)
    assert ours["finetune_imagenet"] == ours["finetune_imagenet_large"] == ((0.003, 0.01, 0.03, 0.06), 0.01)
    assert ours["finetune_cifar"] == (small, 0.02)
    assert ours["finetune_small"] == (small, 0.10)
    assert set(ours) <= set(RECIPES)
    assert get_sweep("finetune_cifar", factor=0.1).learning_rates == (0.0001, 0.0003, 0.001, 0.003)
    assert get_sweep("finetune_vtab", (0.1,)) == SweepConfig((0.1,), 0.10)
    with pytest.raises(ConfigError, match="--rates"):
        get_sweep("finetune_vtab")
    with pytest.raises(ConfigError, match="each once"):
        get_sweep("finetune_cifar", (0.1, 0.1))
