"""The probe learns from training pictures, is scored on test pictures, and says what it did."""

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
from vitrail.data.split import TEST, TRAIN
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.evaluators.few_shot import draw_shots, fit_few_shot
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks.features import extract_features
from vitrail.tasks.probe import ProbeConfig, probe
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.load import load


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of 8-pixel digits with random weights and no head."""
    config = ViTConfig(
        image_size=(8, 8), patch_size=4, in_channels=1, width=32, depth=1, num_heads=2, mlp_size=32, num_classes=0
    )
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("backbone") / "bundle"
    preprocessing = Preprocessing(image_size=(8, 8), mean=(0.5,), std=(0.5,))
    save_bundle(folder, model, BundleConfig(model=config, labels=(), preprocessing=preprocessing))
    return str(folder)


def _photos(folder: Path, counts: dict[str, int]) -> str:
    generator = np.random.default_rng(0)
    for brightness, (name, number) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(number):
            pixels = (generator.integers(0, 60, (10, 10)) + 90 * brightness).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _photos(tmp_path_factory.mktemp("data") / "photos", {"dark": 30, "grey": 30, "light": 30})


def test_figures_are_those_of_the_evaluators_on_the_models_features(backbone: str) -> None:
    result = probe(ProbeConfig(backbone, "digits", shots=(10,), seeds=2, linear=True, sgd="mae"), Events())
    prepared, bundle = result.prepared, load(backbone)
    train, test = (
        extract_features(bundle, prepared, prepared.indices(split), Events()).values for split in (TRAIN, TEST)
    )
    labels = prepared.labels(TRAIN)
    for seed in (0, 1):
        (rows,) = draw_shots(labels, 10, (10,), seed)
        predicted = fit_few_shot(train[rows], labels[rows], 10).predict(test)
        assert result.few_shot[0].accuracies[seed] == np.mean(predicted == prepared.labels(TEST))
    assert result.few_shot[0].num_rows == 100
    few, linear = result.few_shot[0].mean, result.scores[-1]
    assert 0.3 < few < linear.accuracy
    assert result.headline is linear
    assert result.scores[-2].name == "linear classifier by SGD (mae)"
    assert result.scores[-2].accuracy > few
    assert result.floor.best.name == "ridge on pixels"
    assert any(f"{100 * few:.1f} %" in line and "mean of 2 seeds" in line for line in result.describe())
    json.dumps(result.to_json(), allow_nan=False)


def test_the_untrained_network_is_probed_with_the_same_shots_and_layer(backbone: str, photos: str) -> None:
    """The backbone of these tests is itself untrained, drawn with the same seed: it gains nothing."""
    result = probe(ProbeConfig(backbone, photos, shots=(2, 5), layer=0, untrained=True), Events())
    assert [score.accuracies for score in result.untrained] == [score.accuracies for score in result.few_shot]
    assert any("same network untrained" in line and "+0.0 points" in line for line in result.describe())
    assert result.to_json()["untrained_few_shot"] == result.to_json()["few_shot"]
    assert [note for _, note, *_ in result.table()].count("15 pictures, untrained network") == 1
    after_norm = probe(ProbeConfig(backbone, photos, shots=(2, 5)), Events())
    assert after_norm.untrained == ()


def test_a_second_probe_of_the_same_pictures_runs_no_model(
    backbone: str, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    first = probe(ProbeConfig(backbone, photos, shots=(1,), seeds=1), Events())
    monkeypatch.setattr(VisionTransformer, "forward_features", None)
    assert probe(ProbeConfig(backbone, photos, shots=(1,), seeds=1), Events()).to_json() == first.to_json()


def test_a_class_with_fewer_pictures_than_shots_is_kept_and_said(backbone: str, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "photos", {"dark": 30, "grey": 30, "rare": 5})
    result = probe(ProbeConfig(backbone, photos, shots=(10,), seeds=1), Events())
    (score,) = result.few_shot
    assert score.short_classes == ("rare",)
    assert score.num_rows == 20 + int(result.prepared.class_counts(TRAIN)[2])
    assert any("rare" in line and "fewer than 10" in line for line in result.describe())
    by_default = probe(ProbeConfig(backbone, photos), Events())
    assert [score.shots for score in by_default.few_shot] == [1, 5, 10]


def test_a_limit_on_pictures_is_kept_and_said(backbone: str, photos: str) -> None:
    notes: list[str] = []

    class Heard(SilentSink):
        def note(self, text: str) -> None:
            notes.append(text)

    result = probe(ProbeConfig(backbone, photos, shots=(5,), max_pictures=10), Events(Heard()))
    assert (result.num_train, result.num_test) == (10, 10)
    assert any("--max-pictures" in note for note in notes)


def test_what_cannot_be_probed_is_refused(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shots"):
        ProbeConfig(backbone, "digits", shots=(0,))
    with pytest.raises(ConfigError, match="seeds"):
        ProbeConfig(backbone, "digits", seeds=0)
    with pytest.raises(DataError, match="class"):
        probe(ProbeConfig(backbone, _photos(tmp_path / "one", {"dark": 20})), Events())


def test_the_command_answers_in_words_and_writes_json_and_a_table(
    backbone: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["probe", backbone, photos, "--shots", "1", "5", "--seeds", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "These features alone name" in said
    assert "20 nearest neighbours" in said
    record = json.loads((out / "probe.json").read_text())
    assert [score["shots"] for score in record["few_shot"]] == [1, 5]
    with (out / "probe.csv").open() as file:
        assert next(csv.reader(file)) == ["probe", "note", "accuracy", "spread"]
    with pytest.raises(RunError, match="not overwritten"):
        probe(ProbeConfig(backbone, photos, shots=(1,), seeds=1), Events()).write(out)
    assert main(["probe", backbone, photos, "--shots", "1", "--linear", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [score["name"] for score in record["probes"]] == ["logistic regression"]
