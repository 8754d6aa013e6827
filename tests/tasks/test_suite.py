"""Suites: scores by the publishers' test splits, means that say when they are partial, tasks that survive a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.config import Preprocessing
from vitrail.data.imagenet_classes import imagenet_synsets
from vitrail.data.published.catalog import PUBLISHED
from vitrail.data.sources import open_source
from vitrail.data.sources.base import ArraySource
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.evaluators.few_shot import fit_few_shot
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import get_model_config
from vitrail.models.vit import VisionTransformer
from vitrail.recipes import RECIPES
from vitrail.recipes.suites import SUITES
from vitrail.recipes.sweeps import SWEEPS
from vitrail.report.suite_page import render_suite
from vitrail.tasks.benchmark import PENALTIES, Training, as_published, finetune_with_sweep
from vitrail.tasks.features import extract_features
from vitrail.tasks.starting import load_start
from vitrail.tasks.suite import SuiteConfig, SuiteResult, run_suite
from vitrail.training.events import Events
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.load import load

VITRAIL = str(Path(sys.executable).parent / "vitrail")
SMALL = ("--scale", "0.0002", "--image-size", "8")
BATCHES = {f"data_batch_{number}": 40 for number in range(1, 6)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = ViTConfig(image_size=(8, 8), patch_size=4, width=32, depth=1, num_heads=2, mlp_size=32, num_classes=0)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("backbone") / "bundle"
    save_bundle(folder, model, BundleConfig(model=config, labels=(), preprocessing=Preprocessing(image_size=(8, 8))))
    return str(folder)


def coloured(label: int, generator: np.random.Generator) -> np.ndarray:
    colour = np.array([40 * label, 200 - 40 * label, 90 * (label % 2)])
    return np.clip(colour + generator.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """CIFAR-10, CIFAR-100, EuroSAT and some of ImageNet, made up, as their publishers lay them out."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, files, label_bytes, names in (
        ("cifar10", {**BATCHES, "test_batch": 40}, 1, "batches.meta.txt"),
        ("cifar100", {"train": 1100, "test": 50}, 2, "fine_label_names.txt"),
    ):
        (root / name).mkdir()
        for file, count in files.items():
            records = [
                bytes(label_bytes - 1)
                + bytes([index % 5])
                + coloured(index % 5, generator).transpose(2, 0, 1).tobytes()
                for index in range(count)
            ]
            (root / name / f"{file}.bin").write_bytes(b"".join(records))
        (root / name / names).write_text("a\nb\nc\nd\ne\n")
    for index in range(50):
        save(root / "eurosat" / "2750" / f"land{index % 5}" / f"{index}.png", index % 5, generator)
    for label, wnid in enumerate(imagenet_synsets()[:3]):
        for number in range(8):
            save(root / "imagenet" / "train" / wnid / f"{wnid}_{number}.JPEG", label, generator)
        save(root / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{label + 1:08}.JPEG", label, generator)
    return str(root)


def save(path: Path, label: int, generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coloured(label, generator)).save(path, format="PNG")


@pytest.fixture(scope="module")
def vtab(backbone: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> SuiteResult:
    out = tmp_path_factory.mktemp("vtab") / "out"
    with Events() as events:
        return run_suite(SuiteConfig("vtab1k", backbone, data, how="probe", out=str(out)), events)


def test_a_mean_over_fewer_tasks_is_never_shown_as_the_suites_mean(vtab: SuiteResult) -> None:
    assert [score.task for score in vtab.scores] == ["cifar100", "eurosat"]
    assert vtab.is_partial
    answer = vtab.to_json()
    assert answer["partial"]
    assert answer["means"]["all"]["partial"]
    assert (answer["means"]["all"]["tasks"], answer["means"]["all"]["of"]) == (2, 19)
    assert answer["mean"] == pytest.approx(np.mean([score.accuracy for score in vtab.scores]))
    # What is expected is over the same two tasks.
    assert answer["means"]["all"]["expected_of_the_same_tasks"] == {
        "ViT-L/16, ImageNet-21k": pytest.approx((0.841 + 0.956) / 2)
    }
    assert answer["means"]["structured"]["mean"] is None
    page = render_suite(vtab)
    assert "partial: 2 of 19 tasks" in page
    assert "<script" not in page


def test_a_missing_task_is_told_with_the_address_and_the_layout(vtab: SuiteResult) -> None:
    missing = {task.task: task for task in vtab.missing}
    assert len(missing) == 17
    page = render_suite(vtab)
    for name, task in missing.items():
        published = PUBLISHED[SUITES["vtab1k"].tasks[name].published]
        assert (task.address, task.layout) == (published.address, published.layout)
        assert published.address in task.describe()
        assert published.address.replace("&", "&amp;").split("#")[0] in page
    recorded = json.loads((vtab.folder / "result.json").read_text())["missing"]
    assert {task["task"] for task in recorded} == set(missing)


def test_a_probe_chooses_on_200_fits_1000_and_scores_the_whole_test_split(
    vtab: SuiteResult, backbone: str, data: str
) -> None:
    score = vtab.scores[0]
    assert (score.num_train, score.num_test) == (1000, 50)
    source = open_source(f"vtab:cifar100:{data}/cifar100")
    prepared = as_published(source, None)
    features = {
        split: (
            np.array(extract_features(load(backbone), prepared, prepared.indices(split), Events()).values),
            source.labels[prepared.indices(split)],
        )
        for split in (TRAIN, VALIDATION, TEST)
    }
    (x, y), (checked, wanted), (test, truth) = features.values()
    right = [(fit_few_shot(x, y, 5, penalties=(p,)).predict(checked) == wanted).mean() for p in PENALTIES]
    best = PENALTIES[int(np.argmax(right))]
    both = fit_few_shot(np.concatenate([x, checked]), np.concatenate([y, wanted]), 5, penalties=(best,))
    assert score.accuracy == pytest.approx((both.predict(test) == truth).mean())
    with (vtab.folder / "predictions" / "cifar100.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert score.accuracy == pytest.approx(np.mean([row["label"] == row["prediction"] for row in rows]))


def test_a_suite_goes_on_with_what_has_no_score_and_refuses_other_settings(
    vtab: SuiteResult, backbone: str, data: str
) -> None:
    scores = vtab.folder / "scores"
    kept, redone = (scores / f"{name}.json" for name in ("cifar100", "eurosat"))
    before = kept.stat().st_mtime_ns
    redone.unlink()
    config = SuiteConfig("vtab1k", backbone, data, ("cifar100", "eurosat"), "probe", out=str(vtab.folder))
    with Events() as events:
        again = run_suite(config, events)
        assert kept.stat().st_mtime_ns == before
        assert [score.accuracy for score in again.scores] == [score.accuracy for score in vtab.scores]
        assert {task.why for task in again.missing} == {"not asked for"}
        with pytest.raises(RunError, match="other settings"):
            run_suite(replace(config, how="finetune"), events)


@pytest.fixture(scope="module")
def real_labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("real") / "real.json"
    path.write_text(json.dumps([[0, 1, 2], [], [999]] + [[]] * 49_997))
    return str(path)


def test_transfer_finetunes_and_scores_imagenet_by_both_kinds_of_labels(
    backbone: str, data: str, real_labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["suite", "transfer", backbone, "--data", data, "--tasks", "imagenet", "imagenet-real", *SMALL]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [task["task"] for task in first["tasks"]] == ["imagenet"]
    assert "--real" in next(task["why"] for task in first["missing"] if task["task"] == "imagenet-real")
    assert not (tmp_path / "out" / "imagenet" / "checkpoints").exists()
    # All 24 training pictures are learnt from: the paper's final run holds nothing out.
    assert first["tasks"][0]["num_train"] == 24
    assert main([*arguments, "--out", str(tmp_path / "out"), "--real", real_labels, "--json"]) == 0
    tasks = {task["task"]: task for task in json.loads(capsys.readouterr().out)["tasks"]}
    # Of three pictures one may be anything, one has no label, one cannot be right.
    assert tasks["imagenet-real"]["accuracy"] == 0.5
    assert tasks["imagenet-real"]["num_test"] == 2
    assert tasks["imagenet"] == first["tasks"][0]


def test_a_sweep_chooses_the_learning_rate_before_the_last_run(
    backbone: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["suite", "transfer", backbone, "--data", data, "--tasks", "cifar10", "--how", "sweep"]
    arguments += [*SMALL, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "PARTIAL: 1 of 6 tasks" in said
    score = json.loads((tmp_path / "out" / "scores" / "cifar10.json").read_text())
    assert score["note"].endswith("of 4 tried")
    assert score["num_test"] == 40


def test_a_sweep_of_a_benchmark_holds_out_training_pictures_where_it_has_validation_pictures_too(
    backbone: str, tmp_path: Path
) -> None:
    """As the transfer suite has it for Flowers, whose validation pictures take no part."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4), ("test", 3)):
        for label in range(2):
            for number in range(count):
                save(tmp_path / "photos" / split / f"c{label}" / f"{number}.png", label, generator)
    spec, training = str(tmp_path / "photos"), Training("finetune_small", 0.0002, 8)
    with Events() as events:
        prepared, start = as_published(open_source(spec), 0.1), load_start(backbone, events)
        predicted = finetune_with_sweep(training, start, prepared, spec, tmp_path / "run", events, "")
    assert (predicted.num_train, len(predicted.indices)) == (20, 6)
    record = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert (record["given"], record["num_train"], record["num_held_out"]) == (False, 18, 2)


def test_a_task_that_diverges_is_left_out_with_its_reason_and_no_address(
    backbone: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = replace(SWEEPS["finetune_cifar"], learning_rates=(1e30,))
    monkeypatch.setitem(SWEEPS, "finetune_cifar", rates)
    config = SuiteConfig("transfer", backbone, data, ("cifar10",), "sweep", scale=0.0005, image_size=8)
    with Events() as events:
        result = run_suite(replace(config, out=str(tmp_path / "out")), events)
    left_out = next(task for task in result.missing if task.task == "cifar10")
    assert "every learning rate diverged" in left_out.describe()
    assert "http" not in left_out.describe()


def test_a_killed_suite_keeps_its_finished_tasks(backbone: str, data: str, tmp_path: Path) -> None:
    arguments = [VITRAIL, "suite", "vtab1k", backbone, "--data", data, "--tasks", "cifar100", "eurosat"]
    arguments += ["--how", "probe", "--out", "out", "--json"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first, second = (tmp_path / "out" / "scores" / f"{name}.json" for name in ("cifar100", "eurosat"))
    limit = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = first.read_bytes()
    second.unlink(missing_ok=True)  # where the machine was quicker than the signal
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert first.read_bytes() == kept
    assert [task["task"] for task in json.loads(done.stdout)["tasks"]] == ["cifar100", "eurosat"]


def made_up(counts: dict[int, int]) -> ArraySource:
    splits = np.repeat(list(counts), list(counts.values())).astype(np.int8)
    pixels = np.zeros((len(splits), 1, 1), np.uint8)
    return ArraySource("a", "a", pixels, ("x",), np.zeros(len(splits), np.int64), splits)


def test_a_benchmark_keeps_every_picture_of_its_publisher() -> None:
    prepared = as_published(made_up({TRAIN: 50, TEST: 7}), 0.1)
    assert [len(prepared.indices(split)) for split in (TRAIN, VALIDATION, TEST)] == [45, 5, 7]
    prepared = as_published(made_up({TRAIN: 50, VALIDATION: 20, TEST: 7}), None, max_train=30)
    assert [len(prepared.indices(split)) for split in (TRAIN, VALIDATION, TEST)] == [30, 20, 7]
    # What is scored after fine-tuning on the training pictures must not have seen the validation pictures, too.
    prepared = as_published(made_up({TRAIN: 50, VALIDATION: 20, TEST: 7}), 0.2)
    assert [len(prepared.indices(split)) for split in (TRAIN, VALIDATION, TEST)] == [40, 10, 7]
    assert (prepared.source.splits[prepared.indices(VALIDATION)] == TRAIN).all()
    with pytest.raises(DataError, match="no test pictures"):
        as_published(made_up({TRAIN: 50, UNASSIGNED: 7}), 0.1)


@pytest.mark.parametrize("name", SUITES)
def test_the_figures_of_every_column_are_there_for_every_task(name: str) -> None:
    suite = SUITES[name]
    columns = {column for task in suite.tasks.values() for column in task.expected}
    assert suite.reference in columns
    for task in suite.tasks.values():
        assert set(task.expected) == columns
        assert all(20 < value < 100 for value in task.expected.values())
        assert task.recipe in RECIPES
        assert task.published in PUBLISHED
        assert task.scored_from is None or task.scored_from in suite.tasks


def test_expected_figures_are_those_of_models_of_the_same_size() -> None:
    size = get_model_config("ViT-L/16")
    at_384 = replace(size, image_size=(384, 384), num_classes=10, pre_logits_size=None)
    assert SUITES["vtab1k"].columns_of(at_384) == ("ViT-L/16, JFT", "ViT-L/16, ImageNet-21k")
    assert SUITES["transfer"].columns_of(get_model_config("BiT-R152x4")) == ("BiT-R152x4, JFT (table 2)",)
    assert SUITES["vtab1k"].columns_of(get_model_config("R50+ViT-B/16")) == ()
    table_5 = SUITES["transfer"].tasks
    assert table_5["cifar100"].expected["ViT-B/32, ImageNet-21k"] == 91.97
    assert table_5["imagenet-real"].expected["ViT-H/14, JFT"] == 90.33


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "vtab"}, "Did you mean 'vtab1k'"),
        ({"tasks": ("cifar10",)}, "Did you mean 'cifar100'"),
        ({"how": "sweep"}, "nothing to sweep"),
        ({"how": "probe", "scale": 0.5}, "a probe sees"),
    ],
)
def test_what_a_suite_cannot_do_is_refused(change: dict[str, object], why: str, backbone: str) -> None:
    values: dict[str, object] = {"name": "vtab1k", "backbone": backbone, **change}
    with pytest.raises(ConfigError, match=why), Events() as events:
        run_suite(SuiteConfig(**values), events)  # type: ignore[arg-type]


def test_a_folder_that_is_not_there_is_not_nineteen_missing_tasks(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"), Events() as events:
        run_suite(SuiteConfig("vtab1k", backbone, str(tmp_path / "nowhere")), events)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
