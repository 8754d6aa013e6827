"""`inspect`: what the page shows is what the model does, for every kind of model and of picture."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report.test_page import Page

from vitrail.cli.main import main
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import open_picture
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError, DataError
from vitrail.inspection.shift import shift_response
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.vit import VisionTransformer
from vitrail.report.inspection_change import changes
from vitrail.report.inspection_page import render_inspection
from vitrail.tasks.inspect import InspectConfig, Inspection, inspect
from vitrail.tasks.predict import PredictConfig, predict
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import BundleConfig, load_bundle, save_bundle

Capture = pytest.CaptureFixture[str]
CONFIG = ViTConfig(image_size=(16, 24), patch_size=8, width=16, depth=3, num_heads=2, mlp_size=32, num_classes=3)


def bundle(folder: Path, **changes: Any) -> str:
    config = replace(CONFIG, **changes)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
    channels = config.in_channels
    preprocessing = Preprocessing(image_size=config.image_size, mean=(0.5,) * channels, std=(0.5,) * channels)
    labels = ("hat", "<b>shoe</b>", "=sock")[: config.num_classes]
    save_bundle(folder / "bundle", model, BundleConfig(config, labels, preprocessing, temperature=1.5))
    return str(folder / "bundle")


def photos(folder: Path, count: int = 3) -> str:
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(count):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return str(folder / "photos")


def resnet(folder: Path, image_size: tuple[int, int], num_classes: int = 2) -> str:
    config = ResNetConfig(image_size=image_size, depths=(1, 1), num_classes=num_classes)
    model = build_model(config, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in model.get_parameter("head.fc.weight"), model.get_parameter("head.fc.bias"):
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    labels = ("a", "b", "c", "d")[:num_classes]
    save_bundle(folder / "resnet", model, BundleConfig(config, labels, Preprocessing(image_size=image_size)))
    return str(folder / "resnet")


def look(model: str, *pictures: str, **more: Any) -> Inspection:
    return inspect(InspectConfig(model, pictures, **more), Events(SilentSink()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_register_tokens": 2, "distillation_token": True},
        {"class_token": False, "pooling": "gap"},
        {"class_token": False, "pooling": "map"},
        {"position_embedding": "relative"},
        {"position_embedding": "none"},
        {"stem": "conv", "stem_widths": (8,)},
        {"num_classes": 0},
        {"in_channels": 1},
        {"depth": 1, "num_heads": 1},
        {"image_size": (8, 8)},  # one patch, and narrower than the widest shift
        {"image_size": (1, 1), "patch_size": 1},
    ],
    ids=str,
)
def test_every_kind_of_model_gives_a_whole_page(changes: dict[str, Any], tmp_path: Path) -> None:
    result = look(bundle(tmp_path, **changes), photos(tmp_path))
    page = Page(render_inspection(result))
    has_head = changes.get("num_classes") != 0
    has_filters = changes.get("stem") != "conv"
    has_positions = changes.get("position_embedding") not in ("relative", "none")
    assert [attributes["id"] for attributes in page.all("section")] == [
        "pictures", "heads", "distance", *(["depths"] if has_head else []), "colours",
        *(["shifts"] if changes.get("image_size") != (1, 1) else []),
        *(["filters"] if has_filters else []), *(["positions"] if has_positions else []),
        *(["notes"] if result.missing else []),
    ]  # fmt: skip
    assert len(result.missing) == (not has_filters) + (not has_positions) + (not has_head)
    assert len(result.maps) == changes.get("depth", 3)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))


def test_the_answers_are_those_of_predict(tmp_path: Path) -> None:
    model, pictures = bundle(tmp_path), photos(tmp_path)
    result = look(model, pictures)
    said = predict(PredictConfig(model, (pictures,)), Events(SilentSink()))
    assert result.files == tuple(one.file for one in said)
    for answer, one in zip(result.answers, said, strict=True):
        assert [label for label, _ in answer] == [label for label, _ in one.top]
        assert [share for _, share in answer] == pytest.approx([share for _, share in one.top], abs=1e-6)


def test_what_can_be_taken_along_is_what_was_computed(tmp_path: Path) -> None:
    result = look(bundle(tmp_path), photos(tmp_path, 2))
    links = re.findall(r'download="(\w+\.csv)" href="data:text/csv;base64,([^"]*)"', render_inspection(result))
    tables = {file: list(csv.reader(io.StringIO(base64.b64decode(data).decode()))) for file, data in links}
    assert list(tables) == [
        f"{one}.csv"
        for one in (
            "rollout", "attention", "entropy", "distance", "depths", "colours", "shifts", "filters", "positions"
        )
    ]  # fmt: skip
    assert [row[2] for row in tables["depths.csv"][-2:]] == [
        answer[0][0].replace("=", "'=") for answer in result.answers
    ]
    distances = [float(row[2]) for row in tables["distance.csv"][1:]]
    np.testing.assert_allclose(distances, result.distance.pixels.flatten(), atol=1e-4)
    head = tables["rollout.csv"][0]
    assert head[-2:] == ["through 3 of 3", "by gradients"]
    shares = [float(row[-2]) for row in tables["rollout.csv"][1:]]
    np.testing.assert_allclose(shares, result.rollout.maps[-1].flatten(), rtol=1e-3)
    assert result.similarity is not None
    np.testing.assert_allclose(
        [float(row[4]) for row in tables["positions.csv"][1:]], result.similarity.flatten(), atol=1e-6
    )


def test_occlusion_is_asked_for(tmp_path: Path) -> None:
    model, pictures = bundle(tmp_path), photos(tmp_path, 2)
    assert look(model, pictures).occluded is None
    result = look(model, pictures, occlude=True)
    assert result.occluded is not None
    assert result.occluded.lost.shape == (2, 1, 2)  # squares of 16 pixels, 8 apart, in 16 x 24
    assert render_inspection(result).count("occlusion:") == 2 * 2


def test_two_models_stand_beside_each_other(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = photos(tmp_path, 2)
    for folder in ("one", "two"):
        Path(folder).mkdir()
    before, after = bundle(Path("one")), bundle(Path("two"), patch_size=4, depth=1)
    assert main(["inspect", before, after, pictures, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [len(said[key]["attention_distance_pixels"]) for key in ("before", "after")] == [3, 1]
    text = Path("inspection.html").read_text()
    page = Page(text)
    assert [attributes["id"] for attributes in page.all("section")][:2] == ["change", "pictures"]
    assert page.text.count("Before") >= 8
    files = [attributes["download"] for attributes in page.all("a") if "download" in attributes]
    assert len(files) == len(set(files)) == 19  # nine tables of each, and what changed
    assert main(["inspect", before, after, "--force"]) == 2
    assert "two models and no picture" in capsys.readouterr().err


def test_a_model_beside_itself_changes_nothing(tmp_path: Path) -> None:
    result = look(bundle(tmp_path), photos(tmp_path, 3))
    rows = re.findall(r"<tr><td>.*?</tr>", changes(result, result))
    assert len(rows) == 3
    for row in rows:
        cells = re.findall(r"<td>(.*?)</td>", row)
        assert cells[1] == cells[2]
        assert cells[3] == "1.00"


def test_names_are_text_and_formulas_stay_text(tmp_path: Path) -> None:
    folder = Path(photos(tmp_path, 1))
    hostile = folder / '=cmd"<img src=x onerror=alert(1)>.png'
    (folder / "0.png").rename(hostile)
    result = look(bundle(tmp_path), str(folder))
    text = render_inspection(result)
    page = Page(text)
    assert "<b>shoe</b>" in page.text
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    relative = replace(result, files=(hostile.name,))
    tables = re.findall(r'href="data:text/csv;base64,([^"]*)"', render_inspection(relative))
    assert list(csv.reader(io.StringIO(base64.b64decode(tables[0]).decode())))[1][0] == f"'{hostile.name}"


def test_a_broken_picture_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, pictures = bundle(tmp_path), photos(tmp_path, 4)
    Path(pictures, "1.png").write_bytes(b"no picture")
    assert main(["inspect", model, pictures, "--out", "page.html", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [Path(one["file"]).name for one in said["pictures"]] == ["0.png", "2.png", "3.png"]
    assert "1.png" in said["broken"][0]["file"]
    assert np.shape(said["attention_distance_pixels"]) == np.shape(said["attention_entropy_nats"]) == (3, 2)
    assert "1.png" in Path("page.html").read_text()
    assert main(["inspect", model, pictures, "--out", "page.html"]) == 2
    assert "page.html is there already" in capsys.readouterr().err
    assert main(["inspect", model, pictures, "--out", "page.html", "--force", "--most", "1"]) == 0
    assert "left out: 3 pictures after the first 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "page.png"], "name a file that ends in .html"),
        (["--out", "nowhere/page.html"], "does not exist"),
        (["--most", "0"], "--most 0 is below 1"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "no-model", "no-pictures", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_models_without_attention_of_all_on_all_are_refused(tmp_path: Path) -> None:
    pictures = photos(tmp_path, 1)
    with pytest.raises(ConfigError, match="no Vision Transformer whose tokens all see each other"):
        look(bundle(tmp_path, attention="axial", class_token=False, pooling="gap"), pictures)
    with pytest.raises(ConfigError, match="no Vision Transformer whose tokens all see each other"):
        look(resnet(tmp_path, (32, 32)), pictures)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    folder = Path(photos(tmp_path, 1))
    (folder / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        look(bundle(tmp_path), str(folder))


def test_the_other_model_is_asked_as_if_it_were_alone(tmp_path: Path) -> None:
    """Its own preprocessing, the same pictures, and the same shares of the width as MODEL's shifts."""
    model, pictures, other = bundle(tmp_path), photos(tmp_path, 3), resnet(tmp_path, (32, 48))
    result = look(model, pictures, shifts_beside=other)
    assert result.shifts is not None
    assert result.shifts.shifts == tuple(range(1, 17))
    assert result.shifts.turned is not None
    assert result.shifts.turned.shape == (16, 3)  # of models this small all pictures are moved
    assert result.beside is not None
    assert (result.beside.image_size, result.beside.shifts.shifts) == ((32, 48), tuple(range(2, 33, 2)))
    loaded = load_bundle(other)
    transform = EvaluationTransform(loaded.config.preprocessing)
    pixels = np.stack([transform(open_picture(Path(file))) for file in result.files])
    alone = shift_response(loaded.model, normalize(torch.from_numpy(pixels), loaded.config.preprocessing), (2, 32))
    for name in ("moved", "turned"):
        torch.testing.assert_close(
            getattr(result.beside.shifts, name)[[0, -1]], getattr(alone, name), atol=1e-6, rtol=1e-3
        )
    beside = result.to_json()["shifts_beside"]
    assert beside["variant"] == "BiT ResNet, pictures of 32 x 48"
    assert alone.moved is not None
    assert beside["answer_moved"][0] == pytest.approx(float(alone.moved[0].mean()), rel=1e-3)


def test_a_model_beside_itself_responds_alike(tmp_path: Path) -> None:
    model = bundle(tmp_path)
    result = look(model, photos(tmp_path, 2), shifts_beside=model)
    assert result.shifts is not None
    assert result.beside is not None
    assert result.beside.shifts.shifts == result.shifts.shifts
    for name in ("moved", "same", "turned"):
        assert torch.equal(getattr(result.beside.shifts, name), getattr(result.shifts, name))


def test_a_model_without_a_head_has_features_that_turn(tmp_path: Path) -> None:
    result = look(bundle(tmp_path, num_classes=0), photos(tmp_path, 1), shifts_beside=resnet(tmp_path, (32, 32)))
    assert result.shifts is not None
    assert result.shifts.moved is None
    assert result.shifts.turned is not None
    figures = result.to_json()
    assert figures["shifts"]["answer_moved"] is None
    assert len(figures["shifts"]["feature_distance"]) == len(figures["shifts_beside"]["answer_moved"]) == 16


def test_shifts_reach_two_patches_where_the_picture_does(tmp_path: Path) -> None:
    result = look(bundle(tmp_path, image_size=(48, 96), patch_size=24), photos(tmp_path, 1))
    assert result.shifts is not None
    assert result.shifts.shifts == (*range(1, 17), 24, 36, 48)
