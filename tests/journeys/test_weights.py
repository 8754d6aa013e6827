"""Weights of others in, and what was trained here back to them: whole commands in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import COMMIT, Hub, serving
from PIL import Image

timm = pytest.importorskip("timm")

VITRAIL = str(Path(sys.executable).parent / "vitrail")
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def vitrail(*arguments: str, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, **environment}
    done = subprocess.run([VITRAIL, *arguments], cwd=cwd, env=everything, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def make_photos(folder: Path, side: int) -> None:
    """Two classes, light above dark and dark above light, 20 of each."""
    generator = np.random.default_rng(0)
    for name, top in (("day", 90), ("night", -70)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 50, (side, side, 3)) + 100
            pixels[: side // 2] += top
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def from_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, with weights that timm's own code saved for the hub, and with a run that started there."""
    place = tmp_path_factory.mktemp("weights")
    make_photos(place / "photos", side=32)
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    timm.models.save_for_hf(model, place / "hub", model_args=TINY, safe_serialization=True)
    vitrail("fit", "photos", "--weights", "hub", "--minutes", "0.1", cwd=place)
    return place


def test_the_card_of_a_fine_tuned_bundle_names_where_its_weights_came_from(from_timm: Path) -> None:
    run = from_timm / "runs" / "photos"
    card = (run / "bundle" / "README.md").read_text()
    assert "trained further from the weights `hub` (family timm" in card
    assert str(from_timm) not in card
    record = json.loads((run / "starting_weights.json").read_text())
    assert record["certificate"]["family"] == "timm"
    assert record["surgery"] == ["head fresh, 2 classes"]
    assert record["sha256"] == hashlib.sha256((from_timm / "hub" / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((run / "config.json").read_text())["model"]["width"] == 64


def test_what_was_trained_here_answers_the_same_in_timm(from_timm: Path, tmp_path: Path) -> None:
    vitrail("convert", str(from_timm / "runs" / "photos"), str(tmp_path / "ported"), "--to", "timm", cwd=tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'ported'}", pretrained=True).eval()
    picture = from_timm / "photos" / "day" / "3.png"
    config = timm.data.resolve_data_config(model=theirs)
    with torch.no_grad():
        logits = theirs(timm.data.create_transform(**config)(Image.open(picture))[None])[0]
    # timm's files have no place for the temperature of the probabilities; vitrail.json keeps it.
    temperature = json.loads((tmp_path / "ported" / "vitrail.json").read_text())["temperature"]
    expected = (logits / temperature).softmax(dim=0).tolist()
    done = vitrail("predict", str(tmp_path / "ported"), str(picture), "--top-k", "2", "--json", cwd=tmp_path)
    [answer] = json.loads(done.stdout)
    found = {entry["label"]: entry["probability"] for entry in answer["top"]}
    names = json.loads((tmp_path / "ported" / "config.json").read_text())["label_names"]
    assert [found[name] for name in names] == pytest.approx(expected, abs=0.02)  # the two resize a little differently


def test_without_network_the_default_weights_are_refused_clearly(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", side=96)
    done = vitrail("fit", "photos", cwd=tmp_path, code=1, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    assert "--weights none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_with_weights_none_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", side=96)
    vitrail("fit", "photos", "--weights", "none", "--minutes", "0.05", cwd=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert not (tmp_path / "runs" / "photos" / "starting_weights.json").exists()


def test_a_resume_needs_the_starting_weights_no_more(from_timm: Path) -> None:
    (from_timm / "hub").rename(from_timm / "moved")
    try:
        vitrail("fit", "--resume", "runs/photos", cwd=from_timm)
    finally:
        (from_timm / "moved").rename(from_timm / "hub")


def test_features_without_a_head_are_no_classifier(from_timm: Path, tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    torch.save(model.state_dict(), tmp_path / "features.pth")
    picture = str(from_timm / "photos" / "day" / "3.png")
    done = vitrail("predict", str(tmp_path / "features.pth"), picture, cwd=tmp_path, code=1)
    assert "vitrail fit PHOTOS --weights" in done.stderr


def test_the_picture_size_is_a_choice_and_positions_follow(from_timm: Path, tmp_path: Path) -> None:
    start = ("--weights", str(from_timm / "hub"), "--minutes", "0.05", "--out", str(tmp_path / "run"))
    vitrail("fit", "photos", *start, "--image-size", "48", cwd=from_timm)
    record = json.loads((tmp_path / "run" / "starting_weights.json").read_text())
    assert any("4x4 -> 6x6, bicubic antialias" in sentence for sentence in record["surgery"]), record["surgery"]
    done = vitrail("fit", "photos", *start[:4], "--image-size", "50", cwd=from_timm, code=2)
    assert "48 is one" in done.stderr


def test_fit_begins_with_public_weights_that_it_chooses_downloads_and_names(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", side=96)
    name = "vit_tiny_patch16_224.augreg_in21k"
    model = timm.create_model(name.partition(".")[0], num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "published", safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    repository = f"timm/{name}"
    with serving(Hub(repositories={repository: files}, cards={repository: {"license": "apache-2.0"}})) as hub:
        environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
        done = vitrail("fit", "photos", "--minutes", "0.05", cwd=tmp_path, HF_HUB_OFFLINE="0", **environment)
    assert f"{name}, chosen for these pictures and this machine" in done.stderr
    assert "licence apache-2.0" in done.stderr
    config = json.loads((tmp_path / "runs" / "photos" / "config.json").read_text())
    assert config["weights"] == f"hf-hub:{repository}@{COMMIT}"
    card = (tmp_path / "runs" / "photos" / "bundle" / "README.md").read_text()
    assert f'base_model: "{repository}"' in card
    assert "license: apache-2.0" in card
