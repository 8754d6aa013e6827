from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.engines.quantization import has_int8
from vitrail.errors import ConfigError, DataError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks.bench import BenchConfig, BenchRow, Reading, _verdict, bench
from vitrail.training.events import Events
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.load import load

VIT = ViTConfig(image_size=(16, 16), patch_size=4, num_classes=2, width=32, depth=2, num_heads=2, mlp_size=64)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    config = BundleConfig(VIT, ("a", "b"), Preprocessing(image_size=(16, 16)))
    generator = torch.Generator().manual_seed(0)  # some weights give logits near 0, whose cosine is all rounding
    model = VisionTransformer(VIT, generator=generator)
    torch.nn.init.normal_(model.head.weight, generator=generator)  # type: ignore[arg-type]
    save_bundle(tmp_path / "bundle", model, config)
    return str(tmp_path / "bundle")


@pytest.fixture
def photos(tmp_path: Path) -> str:
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return str(folder)


def quick(model: str, *pictures: str, **changes: Any) -> BenchConfig:
    fields = {"engines": ("torch",), "batch_sizes": (1, 3), "compile": False, "seconds": 0.05, **changes}
    return BenchConfig(model, pictures, **fields)


def test_every_row_is_there_with_its_share_and_its_cosine(bundle: str, photos: str) -> None:
    result = bench(quick(bundle, photos), Events())
    assert {(row.precision, row.batch_size) for row in result.rows} >= {("float32", 1), ("float32", 3)}
    for row in result.rows:
        assert row.images_per_second == pytest.approx(1000 * row.batch_size / row.milliseconds)
        assert row.cosine > 0.98
        if row.share_of_ceiling is not None:
            peak = result.ceiling[row.precision]
            assert row.share_of_ceiling == pytest.approx(result.macs * row.images_per_second / peak)
    assert result.reading is not None
    assert result.reading.pictures == 6
    assert sum(result.time_goes.values()) == pytest.approx(1)
    assert set(result.time_goes) == {"products", "attention", "rest"}


def test_without_pictures_nothing_is_decoded_and_a_name_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    result = bench(quick("ViT-mu/32", precisions=("float32",)), Events())
    assert result.reading is None
    assert len(result.rows) == 2


def test_json_is_all_that_stdout_sees(bundle: str, photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", bundle, photos, "--engines", "torch", "--no-compile", "--seconds", "0.05", "--json"]
    assert main([*arguments, "--precisions", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["batch_size"] for row in found["rows"]] == [1, 16]
    assert found["verdict"]


def test_the_table_names_its_columns(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", bundle, "--engines", "torch", "--no-compile", "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "pictures/s" in out
    assert "where the time goes (torch" in out


def test_what_cannot_be_is_refused(bundle: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_sizes"):
        quick(bundle, batch_sizes=(0,))
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the pictures can be read"):
        bench(quick(bundle, str(tmp_path / "no.jpg")), Events())


def labelled_by_the_model(bundle: str, folder: Path, *, is_black: bool) -> str:
    """train/ and test/ in which the model itself is right about every picture; train/ may be black."""
    model, draw = load(bundle).model, np.random.default_rng(1)
    for number in range(60):
        pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        with torch.inference_mode():
            name = "ab"[int(model(normalize(images, Preprocessing(image_size=(16, 16)))).argmax())]
        split = "train" if number < 20 else "test"
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        shown = np.zeros_like(pixels) if is_black and split == "train" else pixels
        Image.fromarray(shown).save(folder / split / name / f"{number}.png")
    return str(folder)


def test_with_labelled_pictures_every_row_has_its_accuracy(bundle: str, tmp_path: Path) -> None:
    labelled = labelled_by_the_model(bundle, tmp_path / "labelled", is_black=False)
    result = bench(quick(bundle, labelled=labelled, max_loss=0.2), Events())
    assert (result.labelled_pictures, result.own_accuracy) == (40, 1.0)
    for row in result.rows:
        assert row.accuracy is not None
        assert row.loss == pytest.approx(1 - row.accuracy)
        assert row.accuracy >= (1 if row.precision == "float32" else 0.8)
    best = max(result.rows, key=lambda row: row.images_per_second)
    assert f": {best.engine} {best.precision}, " in result.keeps_accuracy
    assert best.loss is not None
    change = "gained" if best.loss < 0 else "lost"
    assert result.keeps_accuracy.endswith(f"{100 * abs(best.loss):.2f} points {change}, 20.00 allowed")


@pytest.mark.skipif(not has_int8(), reason="this processor has no exact 8-bit products")
def test_what_loses_too_much_is_refused_by_name_and_never_the_fastest(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = labelled_by_the_model(bundle, tmp_path / "labelled", is_black=True)
    arguments = ["bench", bundle, "--labelled", labelled, "--engines", "torch", "--no-compile", "--seconds", "0.05"]
    assert main([*arguments, "--precisions", "float32", "int8"]) == 0
    out = capsys.readouterr().out
    assert "accuracy  points lost" in out
    *_, refused, own, fastest = out.splitlines()
    assert refused.startswith("refused: torch int8: torch in int8 loses ")
    assert "on 40 labelled pictures, more than the 0.30 allowed" in refused
    assert own == "accuracy of the model itself in float32: 100.00 % of 40 pictures"
    assert fastest.startswith("the fastest that keeps the accuracy: torch float32, ")
    assert main([*arguments, "--precisions", "int8"]) == 0
    assert "nothing keeps the accuracy" in capsys.readouterr().out


def row(speed: float, share: float | None) -> BenchRow:
    return BenchRow("torch", "bfloat16", 16, 16000 / speed, speed, share, 1.0, "")


@pytest.mark.parametrize(
    ("speed", "share", "reading", "said"),
    [
        (
            2000.0,
            0.5,
            Reading(1.0, 1.0, 9, 2),
            "loader-bound: 2 cores decode at most 1,000 pictures a second, and torch",
        ),
        (240.0, 0.9, Reading(0.5, 0.5, 9, 2), "bound by the machine's products: torch bfloat16 takes 240"),
        (240.0, 0.3, None, "model-bound: torch bfloat16 takes 240 pictures a second; 40% of torch's time"),
    ],
)
def test_the_sentence_names_what_is_slowest(speed: float, share: float, reading: Reading | None, said: str) -> None:
    shares = {"products": 0.6, "attention": 0.3, "rest": 0.1}
    assert _verdict([row(speed, share)], reading, {"bfloat16": 1.0}, shares).startswith(said)
