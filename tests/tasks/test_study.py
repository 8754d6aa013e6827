"""Studies: cells that differ in one thing, nested shares of the data, and a table that survives being killed."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitrail.data.config import DataConfig
from vitrail.data.facts import DataFacts
from vitrail.data.sources import open_source
from vitrail.data.split import TRAIN
from vitrail.errors import ConfigError, NonFiniteError, RunError
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.costs import count_macs
from vitrail.models.resnet_config import ResNetConfig
from vitrail.recipes import Situation
from vitrail.recipes.compute import BUDGETS, family_and_budget
from vitrail.recipes.studies import STUDIES, Study, base_config, get_study
from vitrail.report.study_page import render_study
from vitrail.tasks.prepare import prepare_data, restrict_training
from vitrail.tasks.several import require_same
from vitrail.tasks.study import StudyConfig, run_study
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.run_folder import read_config
from vitrail.training.schedule import make_plan

RATES = {"low": 1e-3, "absurd": 1e30}  # the second diverges
VITRAIL = str(Path(sys.executable).parent / "vitrail")
# Study -> what its cells may differ in.
DIFFERENCES = {
    "positions": {"model.position_embedding", "model.position_placement"},
    "pooling": {"model.pooling", "model.class_token", "optimizer.learning_rate"},
    "data-size": {"data.train_share"},
    "shape": {"model.width", "model.depth", "model.num_heads", "model.mlp_size", "model.patch_size"},
    # The whole model, what it sees, and for how long; pictures, augmentation, loss and batches are the same for all.
    "compute": {
        *(f"model.{field.name}" for kind in (ViTConfig, ResNetConfig) for field in fields(kind)),
        "preprocessing.image_size", "augmentation.max_shift", "optimizer.learning_rate",
        "schedule.steps", "schedule.epochs", "schedule.warmup_epochs", "evaluate_every_epochs",
    },
}  # fmt: skip


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (500, 400)])
@pytest.mark.parametrize("name", STUDIES)
def test_the_cells_of_a_study_differ_in_what_it_asks_about_and_in_nothing_else(
    name: str, size: tuple[int, int]
) -> None:
    base = base_config(Situation(DataConfig("x"), DataFacts(picture_size=size)), steps=10)
    cells = STUDIES[name].cells(base)
    assert len(cells) > 1
    first = next(iter(cells.values()))
    for config in cells.values():
        before, after = flat(asdict(first)), flat(asdict(config))
        assert {field for field in before if before[field] != after.get(field)} <= DIFFERENCES[name]
        build_model(config.model, initialize=False)
    assert len({str(asdict(config)) for config in cells.values()}) == len(cells)


def test_the_positions_are_the_eight_cells_of_the_papers_table_at_equal_compute() -> None:
    base = base_config(Situation(DataConfig("x"), DataFacts(picture_size=(28, 28))), steps=10)
    cells = STUDIES["positions"].cells(base)
    assert len(cells) == 8
    relative = count_macs(cells.pop("relative").model)  # a second product of the queries, with the offsets
    macs = {count_macs(config.model) for config in cells.values()}
    assert len(macs) == 1
    assert relative / macs.pop() < 1.5


@pytest.mark.parametrize("size", [(28, 28), (500, 400)])
def test_at_each_budget_every_family_spends_the_same_and_every_budget_is_its_share(size: tuple[int, int]) -> None:
    base = base_config(Situation(DataConfig("x"), DataFacts(picture_size=size)), steps=1000)
    cells = STUDIES["compute"].cells(base)
    assert {family_and_budget(cell)[0] for cell in cells} == {"ViT", "hybrid", "BiT-R26"}
    whole = 1000 * base.batch_size * 6 * count_macs(base.model)
    flops: dict[object, int] = {}
    for cell, config in cells.items():
        if config.model not in flops:
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                build_model(config.model, initialize=False).eval()(torch.empty(1, 3, *config.model.image_size))
            flops[config.model] = counter.get_total_flops()
        spent = 3 * flops[config.model] * config.batch_size * config.schedule.steps
        assert spent / whole == pytest.approx(BUDGETS[family_and_budget(cell)[1]], rel=0.02)


def test_every_run_of_a_budget_warms_up_and_ends_like_a_run_of_its_own() -> None:
    base = base_config(Situation(DataConfig("x"), DataFacts(picture_size=(32, 32), num_train=6400)), steps=1000)
    for config in STUDIES["compute"].cells(base).values():
        plan = make_plan(config, steps_per_epoch=80)  # a fifth of the 100 are put aside for validation
        assert plan.total_steps == config.schedule.steps
        assert plan.warmup_steps == pytest.approx(0.08 * plan.total_steps, abs=1)
        assert plan.evaluate_every_steps > plan.total_steps  # at its end alone


def test_a_study_of_compute_shows_what_each_run_spent(tmp_path: Path) -> None:
    with Events() as events:
        result = run_study(StudyConfig("compute", "digits", seeds=1, steps=8, out=str(tmp_path / "c")), events)
    with (tmp_path / "c" / "study.csv").open(newline="") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9
    vit = rows["ViT, full compute"]
    assert int(vit["training_flops"]) == pytest.approx(6 * 1e9 * float(vit["gmacs"]) * 64 * 8, rel=1e-3)
    page = render_study(result)
    assert page.count("<polyline") == 3
    assert page.count("<circle") == 9
    assert "<bdi>BiT-R26, 1/4 compute</bdi>" in page
    assert "make their compute unequal" in page  # 8 updates of the ViT are 2.5 of the ResNet
    longer = tuple(replace(run, training_flops=10**12) for run in result.runs)
    assert "unequal" not in render_study(replace(result, runs=longer))


def test_a_smaller_share_of_the_training_pictures_lies_inside_a_larger_one() -> None:
    with Events() as events:
        prepared = prepare_data(open_source("digits"), DataConfig("digits"), events)
    sets = [
        set(restrict_training(prepared, DataConfig("digits", train_share=share)).indices(TRAIN).tolist())
        for share in (0.01, 0.1, 0.5, 1.0)
    ]
    for small, large in itertools.pairwise(sets):
        assert small < large
    tenth = restrict_training(prepared, DataConfig("digits", train_share=0.1))
    assert (tenth.class_counts(TRAIN) == np.rint(0.1 * prepared.class_counts(TRAIN))).all()
    assert (tenth.class_counts(1) == prepared.class_counts(1)).all()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "pooling"
    with Events() as events:
        run_study(StudyConfig("pooling", "digits", seeds=2, steps=3, out=str(folder)), events)
    return folder


def test_a_study_is_a_table_and_a_page(study: Path) -> None:
    with (study / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["seed"] for row in rows} == {"0", "1"}
    for row in rows:
        metrics = json.loads((study / row["folder"] / "bundle" / "config.json").read_text())["metrics"]
        assert float(row["test_accuracy"]) == pytest.approx(metrics["test_accuracy"], abs=1e-6)


def test_a_study_that_goes_on_keeps_what_is_finished_and_refuses_other_settings(study: Path) -> None:
    bundles = sorted(study.glob("*/bundle/model.safetensors"))
    assert len(bundles) == 8
    before = {path: path.stat().st_mtime_ns for path in bundles}
    (bundles[0].parent / "config.json").unlink()  # a run that had not ended
    with Events() as events:
        result = run_study(StudyConfig("pooling", "digits", seeds=2, steps=3, out=str(study)), events)
        changed = [path for path in bundles if path.stat().st_mtime_ns != before[path]]
        assert changed == [bundles[0]]
        page = render_study(result)
        assert page.count("<circle") == 8
        assert "<script" not in page
        with pytest.raises(RunError, match="other settings"):
            run_study(StudyConfig("pooling", "digits", seeds=2, steps=4, out=str(study)), events)


def test_runs_that_are_added_compute_as_those_that_are_there(study: Path) -> None:
    places = sorted(path.parent for path in study.glob("*/config.json"))
    assert len({read_config(place).precision for place in places}) == 1
    other = "float32" if read_config(places[0]).precision == "bfloat16" else "bfloat16"
    for place in places:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"precision": other}))
    shutil.rmtree(places[-1])
    with Events() as events:
        run_study(StudyConfig("pooling", "digits", seeds=2, steps=3, out=str(study)), events)
    assert read_config(places[-1]).precision == other  # whatever a trial of its own would have said


def test_a_study_goes_on_with_the_pictures_it_began_with_or_not_at_all(study: Path) -> None:
    record = next(iter(sorted(study.glob("*/data.json"))))
    before = record.read_text()
    record.write_text(json.dumps(json.loads(before) | {"fingerprint": "another"}))
    with Events() as events, pytest.raises(RunError, match="began on other pictures"):
        run_study(StudyConfig("pooling", "digits", seeds=2, steps=3, out=str(study)), events)
    record.write_text(before)


def test_a_run_that_diverges_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cells(base: TrainConfig) -> dict[str, TrainConfig]:
        sgd = {name: replace(base.optimizer, name="sgd", learning_rate=rate) for name, rate in RATES.items()}
        return {name: replace(base, optimizer=optimizer) for name, optimizer in sgd.items()}

    monkeypatch.setitem(STUDIES, "rates", Study("Which rate?", "no section", cells))
    config = StudyConfig("rates", "digits", seeds=1, steps=4, out=str(tmp_path / "run"))
    with Events() as events:
        result = run_study(config, events)
        assert [run.cell for run in result.runs] == ["low"]
        assert result.to_json()["diverged"] == ["absurd, seed 0"]
        assert "Diverged, and in no figure: absurd, seed 0." in render_study(result)
        monkeypatch.setitem(RATES, "low", 1e30)
        with pytest.raises(NonFiniteError, match="every run diverged"):
            run_study(replace(config, out=str(tmp_path / "other")), events)


def test_a_sweep_or_study_that_died_before_it_wrote_anything_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    settings = tmp_path / "sweep" / "settings.json"
    require_same(tmp_path, settings, {"rates": [1]}, "sweep")
    require_same(tmp_path, settings, {"rates": [1]}, "sweep")
    with pytest.raises(RunError, match="other settings"):
        require_same(tmp_path, settings, {"rates": [2]}, "sweep")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="something else"):
        require_same(tmp_path, tmp_path / "study.json", {}, "study")


def test_a_killed_study_keeps_its_finished_runs(tmp_path: Path) -> None:
    arguments = [VITRAIL, "study", "data-size", "--data", "digits", "--seeds", "1", "--steps", "20", "--out", "s"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first = tmp_path / "s" / "3-of-the-pictures-seed-0" / "bundle" / "config.json"
    limit = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = first.read_bytes()
    done = subprocess.run([*arguments, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert first.read_bytes() == kept
    assert len(json.loads(done.stdout)["cells"]) == 4


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'positions'"):
        get_study("position")


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="train_share"):
        replace(DataConfig("x"), train_share=0.0)
