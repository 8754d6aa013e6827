from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.config import Preprocessing
from vitrail.data.imagenet_classes import imagenet_labels, imagenet_synsets
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import BundleConfig, save_bundle

FAVOURITE = 3  # what the model always says
REAL = {1: [FAVOURITE, 9], 2: [7], 3: [], 4: [FAVOURITE]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    config = ViTConfig(image_size=(8, 8), patch_size=4, width=8, depth=1, num_heads=1, mlp_size=8, num_classes=1000)
    model = VisionTransformer(config)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
        next(p for p in model.head.parameters() if p.ndim == 1)[FAVOURITE] = 5.0
    labels = imagenet_labels()
    save_bundle(tmp_path / "model", model, BundleConfig(config, labels, Preprocessing(image_size=(8, 8))))
    for number in REAL:
        folder = tmp_path / "imagenet" / "val" / imagenet_synsets()[number]
        folder.mkdir(parents=True)
        pixels = np.full((9, 9, 3), number * 20, np.uint8)
        Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{number:08}.JPEG", format="JPEG")
    real = [REAL.get(number, []) for number in range(1, 50_001)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    return tmp_path


def evaluate(place: Path, data: str, real: str) -> int:
    return main(["evaluate", str(place / "model"), data, "--real", str(place / real), "--json"])


def test_real_scores_by_the_files_number_and_leaves_empty_lists_out(place: Path, capsys) -> None:
    assert evaluate(place, f"imagenet:{place / 'imagenet'}", "real.json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_pictures"], told["num_correct"]) == (4, 1)
    assert told["real"] == {"num_pictures": 3, "num_correct": 2, "num_left_out": 1, "accuracy": 0.666667}


def test_pictures_without_the_number_and_other_json_are_refused(place: Path, capsys) -> None:
    file = next((place / "imagenet" / "val").rglob("*.JPEG"))
    assert evaluate(place, f"imagenet:{place / 'imagenet'}", "model/config.json") != 0
    assert "real.json" in capsys.readouterr().err
    file.rename(file.with_name("tench.JPEG"))
    assert evaluate(place, f"imagenet:{place / 'imagenet'}", "real.json") != 0
    assert "tench.JPEG is no validation picture" in " ".join(capsys.readouterr().err.split())
