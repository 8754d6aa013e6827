from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.config import Preprocessing
from vitrail.data.sources import open_source
from vitrail.errors import ConfigError
from vitrail.tasks.dedup import DedupConfig, dedup
from vitrail.training.events import Events


def _scene(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)


def _folders(tmp_path: Path) -> tuple[str, str]:
    """Train: 0 to 5, and 0 again. Test: 0 as the same file, 1 resized in another class, 9, and one broken."""
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train / "cat", train / "dog", test / "cat", test / "dog"):
        folder.mkdir(parents=True)
    for number in range(6):
        _scene(number).save(train / ("cat" if number < 3 else "dog") / f"{number}.png")
    _scene(0).save(train / "cat" / "again.png")
    _scene(0).save(test / "cat" / "zero.png")
    _scene(1).resize((48, 36)).save(test / "dog" / "one, smaller.png")
    _scene(9).save(test / "cat" / "nine.png")
    (test / "dog" / "broken.png").write_bytes((test / "cat" / "nine.png").read_bytes()[:200])
    return str(train), str(test)


def _files(table: Path) -> list[str]:
    source = open_source(str(table))
    return sorted(Path(source.key(index)).name for index in range(len(source)))


def test_both_directions_leave_lists_that_are_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = _folders(tmp_path)
    out = tmp_path / "leaks"
    assert main(["dedup", train, "--against", test, "--out", str(out)]) == 0
    said, warned = capsys.readouterr()
    assert said.startswith("2 of 4 test pictures (50.0 %) are in the training set too; 3 of 7 training pictures")
    assert "broken.png" in warned
    assert _files(out / "train_without_leaks.csv") == ["2.png", "3.png", "4.png", "5.png"]
    assert _files(out / "test_without_leaks.csv") == ["nine.png"]
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["labels_agree"]) for row in rows] == [("same file", "yes"), ("near", "no")]
    assert rows[1]["first"] == "cat/1.png"
    assert rows[1]["second"] == "dog/one, smaller.png"
    page = (out / "pairs.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 4
    assert "<script" not in page
    assert json.loads((out / "dedup.json").read_text(encoding="utf-8"))["num_leaking"] == [3, 2]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = _folders(tmp_path)
    assert main(["dedup", train, "--against", test, "--out", test]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (Path(test) / "pairs.csv").exists()


def test_within_one_set_the_first_of_equal_pictures_is_kept(tmp_path: Path) -> None:
    train, _ = _folders(tmp_path)
    result = dedup(DedupConfig(train), Events())
    kept = {result.first.key(index) for index in np.flatnonzero(result.keep_first).tolist()}
    assert kept == {"cat/0.png", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/5.png"}


def test_embeddings_find_copies_as_the_hash_does(tmp_path: Path) -> None:
    from vitrail.models.config import ViTConfig
    from vitrail.models.vit import VisionTransformer
    from vitrail.weights.bundle import Bundle, BundleConfig

    train, test = _folders(tmp_path)
    config = ViTConfig(image_size=(32, 32), patch_size=8, width=32, depth=1, num_heads=2, mlp_size=64, num_classes=2)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    bundle = BundleConfig(
        model=config, labels=("a", "b"), preprocessing=Preprocessing(image_size=(32, 32), resize="squash")
    )
    Bundle(model, bundle, tmp_path).save_pretrained(tmp_path / "bundle")
    settings = DedupConfig(train, test, by="embedding", backbone=str(tmp_path / "bundle"), threshold=0.999)
    result = dedup(settings, Events())
    found = {(result.first.key(pair.first), result.other.key(pair.second), pair.kind) for pair in result.pairs}
    assert found == {
        ("cat/0.png", "cat/zero.png", "same file"),
        ("cat/1.png", "dog/one, smaller.png", "similar"),
    }


def test_settings_that_do_not_go_together_are_refused() -> None:
    for wrong in ({"distance": 17}, {"by": "embedding"}, {"backbone": "x"}, {"threshold": 0.0}):
        with pytest.raises(ConfigError):
            DedupConfig("x", **wrong)
    with pytest.raises(ConfigError, match="--mirrored is of --by hash"):
        DedupConfig("x", by="embedding", backbone="y", mirrored=True)


def test_by_embedding_lookalikes_are_not_called_copies(tmp_path: Path) -> None:
    from dataclasses import replace

    from vitrail.cli.dedup import sentences

    train, test = _folders(tmp_path)
    result = dedup(DedupConfig(train, test), Events())
    assert "are in the training set too" in sentences(result)[0]
    by_embedding = replace(result, config=DedupConfig(train, test, by="embedding", backbone="x"))
    assert "are in the training set too" not in sentences(by_embedding)[0]
    assert "lookalike" in sentences(by_embedding)[0]
