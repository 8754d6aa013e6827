"""`vitrail fit` and what follows it, as a user meets them: whole commands in processes of their own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

VITRAIL = str(Path(sys.executable).parent / "vitrail")
CLASSES = ("dots", "rows", "столбцы with spaces")


def vitrail(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([VITRAIL, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def make_photos(folder: Path, count: int = 20) -> None:
    """Three classes that differ in texture alone, of 12x14 pixels: a network learns them, a linear model hardly."""
    generator = np.random.default_rng(5)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pattern = generator.integers(0, 2, (14, 12))
            if label:
                pattern = np.repeat(pattern[:, :1], 12, 1) if label == 1 else np.repeat(pattern[:1], 14, 0)
            noise = generator.integers(0, 60, (14, 12, 3))
            pixels = (60 + 120 * pattern[:, :, None] + noise).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d} a\nb.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A folder with photos/ and the run of `vitrail fit photos` in it; and the command's answer."""
    place = tmp_path_factory.mktemp("main-job")
    make_photos(place / "photos")
    (place / "photos" / CLASSES[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (place / "photos" / CLASSES[0] / "letter.jpg").write_text("Dear reader")
    shutil.copy(place / "photos" / CLASSES[0] / "00 a\nb.png", place / "photos" / CLASSES[0] / "copy of 0.png")
    done = vitrail("fit", "photos", "--json", cwd=place)
    return place, json.loads(done.stdout)


def test_fit_leaves_a_whole_run_folder(finished: tuple[Path, dict[str, object]]) -> None:
    place, answer = finished
    run = place / "runs" / "photos"
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.json",
        "command.txt",
        "environment.json",
        "data.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "bundle",
        "nearest",
        "report.html",
        "predictions.csv",
    }
    assert answer["run"] == "runs/photos"
    assert (run / "command.txt").read_text().strip() == "vitrail fit photos --json"


def test_broken_pictures_are_named_and_left_out_and_copies_stay_together(
    finished: tuple[Path, dict[str, object]],
) -> None:
    place, _ = finished
    data = json.loads((place / "runs" / "photos" / "data.json").read_text())
    splits = {key: name for name, keys in data["splits"].items() for key in keys}
    assert len(splits) == 61  # 60 and the copy; neither of the broken ones
    assert not any("broken" in key or "letter" in key for key in splits)
    assert {Path(str(index)).name for index, _ in data["check"]["broken"]}
    assert splits[f"{CLASSES[0]}/00 a\nb.png"] == splits[f"{CLASSES[0]}/copy of 0.png"]
    assert data["labels"] == sorted(CLASSES)


def test_predictions_hold_a_probability_for_each_class_that_sums_to_one(
    finished: tuple[Path, dict[str, object]],
) -> None:
    place, answer = finished
    with (place / "runs" / "photos" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["label"] == row["prediction"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(answer["test_accuracy"])
    for row in rows:
        assert sum(float(row[name]) for name in CLASSES) == pytest.approx(1, abs=1e-4)


def test_the_bundle_predicts_the_same_from_another_folder(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, _ = finished
    shutil.copytree(place / "runs" / "photos" / "bundle", tmp_path / "carried")
    with (place / "runs" / "photos" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        expected = next(csv.DictReader(file))
    picture = place / "photos" / expected["file"]
    done = vitrail("predict", "carried", str(picture), "--top-k", "3", "--json", cwd=tmp_path)
    [found] = json.loads(done.stdout)
    assert found["label"] == expected["prediction"]
    for entry in found["top"]:
        assert entry["probability"] == pytest.approx(float(expected[entry["label"]]), abs=2e-6)


def test_evaluate_on_the_same_test_pictures_agrees_with_fit(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, answer = finished
    with (place / "runs" / "photos" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            target = tmp_path / "others" / row["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / "photos" / row["file"], target)
    done = vitrail("evaluate", str(place / "runs" / "photos"), "others", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(answer["test_accuracy"], abs=1e-6)


def test_a_second_run_takes_another_folder(finished: tuple[Path, dict[str, object]]) -> None:
    place, _ = finished
    before = (place / "runs" / "photos" / "config.json").read_bytes()
    done = vitrail("train", "--config", "runs/photos/config.json", "--schedule.steps", "2", "--json", cwd=place)
    assert json.loads(done.stdout)["run"] == "runs/photos-2"
    assert (place / "runs" / "photos" / "config.json").read_bytes() == before


def test_a_config_repeats_its_run(finished: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    place, _ = finished
    config = "runs/photos/config.json"
    vitrail("train", "--config", config, "--out", str(tmp_path / "again"), cwd=place)
    first, second = (
        load_file(run / "bundle" / "model.safetensors") for run in (place / "runs" / "photos", tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_fit_goes_on_and_ends_with_the_same_weights(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, _ = finished
    run = tmp_path / "killed"
    arguments = ["train", "--config", "runs/photos/config.json", "--checkpoint-every-steps", "20", "--out", str(run)]
    process = subprocess.Popen([VITRAIL, *arguments], cwd=place, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((run / "checkpoints").glob("step-*/manifest.json"))) < 1:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "bundle").exists()
    done = vitrail("fit", "--resume", str(run), cwd=tmp_path)
    assert "going on after step" in done.stderr
    first, second = (load_file(folder / "bundle" / "model.safetensors") for folder in (place / "runs" / "photos", run))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place, _ = finished
    run = tmp_path / "stopped"
    arguments = ["train", "--config", "runs/photos/config.json", "--schedule.steps", "100000", "--out", str(run)]
    process = subprocess.Popen([VITRAIL, *arguments], cwd=place, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    # Until its first line: the file is there before the run listens to signals.
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert f"vitrail fit --resume {run}" in said
    assert list((run / "checkpoints").glob("step-*/manifest.json"))


def test_fit_starts_from_a_bundle_and_measures_the_floor_on_its_features(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, _ = finished
    done = vitrail(
        "fit", "photos", "--weights", "runs/photos", "--minutes", "0.2", "--out", str(tmp_path / "tuned"), cwd=place
    )
    assert "ridge on frozen features" in done.stderr
    assert "recipe: finetune" in done.stderr
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["schedule"]["steps"] is not None


def test_an_existing_folder_is_never_overwritten(finished: tuple[Path, dict[str, object]]) -> None:
    place, _ = finished
    done = vitrail("fit", "photos", "--out", "runs/photos", cwd=place, code=1)
    assert "runs/photos: exists already" in done.stderr


def test_strict_refuses_a_data_set_with_broken_pictures_and_leaves_no_folder(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, _ = finished
    done = vitrail("fit", "photos", "--strict", "--out", str(tmp_path / "strict"), cwd=place, code=1)
    assert "broken.jpg" in done.stderr
    assert not (tmp_path / "strict").exists()


def test_a_broken_picture_is_answered_with_its_error_and_the_others_are_named(
    finished: tuple[Path, dict[str, object]],
) -> None:
    place, _ = finished
    pictures = [f"photos/{CLASSES[0]}/broken.jpg", f"photos/{CLASSES[1]}/03 a\nb.png"]
    done = vitrail("predict", "runs/photos", *pictures, "--json", cwd=place, code=1)
    broken, whole = json.loads(done.stdout)
    assert broken["label"] is None
    assert "broken.jpg" in broken["error"]
    assert whole["label"] in CLASSES
    assert whole["error"] is None


def test_fit_takes_a_table_with_its_splits_and_a_class_that_the_test_lacks(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place, _ = finished
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for name in CLASSES:
            for number in range(20):
                held_out = "test" if name != CLASSES[1] else "val"
                split = "train" if number < 14 else "val" if number < 17 else held_out
                writer.writerow([place / "photos" / name / f"{number:02d} a\nb.png", name, split])
    done = vitrail("fit", "table.csv", "--minutes", "0.2", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["run"] == "runs/table"
    assert answer["evaluation"]["classes_without_pictures"] == [CLASSES[1]]
    config = json.loads((tmp_path / "runs" / "table" / "bundle" / "config.json").read_text())
    assert config["labels"] == sorted(CLASSES)
    assert config["provenance"]["pictures"] == {"train": 42, "validation": 12, "test": 6}


def test_check_names_what_is_wrong_and_refuses_only_when_asked(finished: tuple[Path, dict[str, object]]) -> None:
    place, _ = finished
    said = vitrail("check", "photos", cwd=place).stdout
    assert "63 pictures in 3 classes, 2 of them broken" in said
    assert "broken.jpg" in said
    assert "letter.jpg" in said
    report = json.loads(vitrail("check", "photos", "--strict", "--json", cwd=place, code=1).stdout)
    assert report["num_samples"] == 63
    assert [len(group) for group in report["exact_groups"]] == [2]
